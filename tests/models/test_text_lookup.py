"""Guesses by prompt lookup: what is found, when it pays, and that no answer is another one for it."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from domain.constraint import Regex
from domain.generation import Finish, FinishReason, GenerationRequest, TextChunk
from domain.prompt import RawText
from models.text.engine import TextEngine
from models.text.lookup import DEEPEST, Lookup, allot
from models.text.native.library import library, why_not
from models.text.scheduler import Limits
from models.text.weights import LoadedWeights
from tests.models.running import Bench, load_tiny
from tests.models.talking import LIMITS, ask, collect, collect_all, gated, idle, talking
from tests.models.tiny import save_tiny

needs_kernels = pytest.mark.skipif(library() is None, reason=f"needs native kernels: {why_not()}")


def read(ids: list[int]) -> Lookup:
    lookup = Lookup()
    lookup.follow(ids)
    return lookup


def chances(lookup: Lookup, count: int = 3) -> list[float]:
    return list(islice(lookup.prospects(), count))


def taught(lookup: Lookup, ids: list[int], tokens: list[int]) -> Lookup:
    """After `tokens` came one by one."""
    for token in tokens:
        ids.append(token)
        lookup.follow(ids)
    return lookup


def copying() -> Lookup:
    """In the middle of an answer that copies."""
    text = list(range(100))
    return taught(read([*text, 0, 1]), [*text, 0, 1], text[2:60])


# -- what is found -------------------------------------------------------------------------------------


def test_the_text_goes_on_as_it_did_after_the_longest_match() -> None:
    ids = [1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 1, 2, 3]
    assert read(ids).guesses(ids, 2) == [4, 5]


def test_among_equal_matches_the_latest_counts() -> None:
    ids = [1, 2, 5, 1, 2, 6, 1, 2]
    assert read(ids).guesses(ids, 1) == [6]


def test_what_repeats_is_guessed_to_go_on_beyond_the_end() -> None:
    ids = [7, 1, 2, 3, 1, 2, 3]
    assert read(ids).guesses(ids, 7) == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize("ids", [[5], [5, 6], [1, 2, 3, 4], [1, 2, 3, 2, 1]])
def test_a_text_without_a_repeated_pair_gives_no_guess(ids: list[int]) -> None:
    lookup = read(ids)
    assert lookup.guesses(ids, 4) == chances(lookup) == []


def test_a_text_that_comes_token_by_token_is_known_as_well_as_one_read_at_once() -> None:
    dice = random.Random(3)
    text = [dice.randrange(6) for _ in range(400)]
    slowly = read(text[:1])
    for end in range(2, len(text) + 1):
        slowly.follow(text[:end])
        at_once = read(text[:end])
        assert list(slowly._earlier) == list(at_once._earlier)
        assert slowly._latest == at_once._latest
        assert bool(slowly.guesses(text[:end], 1)) == bool(at_once.guesses(text[:end], 1))


def test_a_text_that_changed_in_its_middle_is_read_anew() -> None:
    ids = [1, 2, 3, 1, 2]
    lookup = read(ids)
    lookup.forget()
    del ids[2]
    lookup.follow(ids)
    assert lookup.guesses(ids, 1) == [1]


# -- when it pays --------------------------------------------------------------------------------------


def test_chances_rise_where_guesses_come_true_and_fall_where_they_do_not() -> None:
    fresh = chances(read([1, 2, 3, 1, 2]))
    assert fresh == sorted(fresh, reverse=True)
    assert chances(copying())[2] > 0.9 > fresh[0]
    dice = random.Random(1)
    ids = [dice.randrange(3) for _ in range(50)]
    lookup = read(ids)
    # The same pairs all the time, and never followed by the same.
    for _ in range(200):
        wrong = next(token for token in (0, 1, 2) if token not in lookup.guesses(ids, 1))
        taught(lookup, ids, [wrong])
    assert all(chance < 0.01 for chance in chances(lookup))
    assert allot([lookup], [DEEPEST], streams=1, most=32) == [0]


def test_a_lone_copy_gets_many_guesses_and_one_among_many_streams_fewer_but_before_all_others() -> None:
    doubtful = read([1, 2, 3, 1, 2])
    (alone,) = allot([copying()], [DEEPEST], streams=1, most=32)
    among = allot([doubtful, copying(), doubtful], [DEEPEST] * 3, streams=16, most=32)
    assert alone == DEEPEST >= among[1] > 0
    assert among[1] > 4 * max(among[0], among[2])


def test_no_step_checks_more_than_it_may() -> None:
    assert sum(allot([copying() for _ in range(4)], [DEEPEST] * 4, streams=4, most=32)) == 32
    assert allot([copying(), copying()], [3, 0], streams=2, most=32) == [3, 0]
    assert allot([copying()], [DEEPEST], streams=1, most=0) == [0]
    assert allot([], [], streams=0, most=32) == []


# -- no answer is another one for it ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedWeights:
    loaded = load_tiny(save_tiny(tmp_path_factory.mktemp("lookup") / "model"), int8=True, native=True)
    assert loaded.layers == "native", loaded.why
    return loaded


PROMPTS = [[(7 * i + 3 * j + j * j) % 500 for j in range(length)] * 2 for i, length in enumerate((5, 33, 40, 71))]


@needs_kernels
@pytest.mark.parametrize("together", [1, 4])
def test_greedy_tokens_are_the_same_with_guesses_and_without(loaded: LoadedWeights, together: int) -> None:
    plain, guessing = Bench(loaded, blocks=256), Bench(loaded, blocks=256)
    for start in range(0, len(PROMPTS), together):
        prompts = PROMPTS[start : start + together]
        expected = plain.run([plain.sequence(ids, 90) for ids in prompts])
        # A text that holds its own answer is copied from, right up to where the model would say something else.
        known = [ids + answer[:40] for ids, answer in zip(prompts, expected, strict=True)]
        known = [text[: len(ids)] + text for ids, text in zip(prompts, known, strict=True)]
        for texts in (prompts, known):
            sequences = [guessing.sequence(ids, 90, guesses=True) for ids in texts]
            assert guessing.run(sequences) == plain.run([plain.sequence(ids, 90) for ids in texts])
            assert sum(sequence.accepted + sequence.rejected for sequence in sequences) > 0


@needs_kernels
def test_a_preempted_guesser_goes_on_where_it_was(loaded: LoadedWeights) -> None:
    alone = [Bench(loaded).run([Bench(loaded).sequence(ids, 60)])[0] for ids in PROMPTS]
    tight = Bench(loaded, blocks=24, limits=Limits(chunk=32, max_prefill_tokens=64, reserve=0))
    assert tight.run([tight.sequence(ids, 60, guesses=True) for ids in PROMPTS]) == alone
    assert tight.scheduler.preemptions > 0


@needs_kernels
def test_blocks_that_a_guesser_leaves_behind_hold_its_text_alone(loaded: LoadedWeights) -> None:
    bench = Bench(loaded)
    first = bench.sequence(PROMPTS[0], 80, guesses=True)
    (answer,) = bench.run([first])
    second = bench.sequence(PROMPTS[0] + answer, 20)
    fresh = Bench(loaded)
    assert bench.run([second]) == fresh.run([fresh.sequence(PROMPTS[0] + answer, 20)])
    assert second.cached >= (len(PROMPTS[0]) + 60) // 16 * 16


# -- as callers meet it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("talking") / "model", talks=True)


@pytest.fixture
def engine(directory: Path) -> Iterator[TextEngine]:
    with talking(directory, int8=True, limits=replace(LIMITS, max_running=8), max_waiting=16) as engine:
        yield engine


@pytest.fixture
def plain(directory: Path) -> Iterator[TextEngine]:
    with talking(directory, int8=True, speculation=False) as engine:
        yield engine


def finish_of(chunk: TextChunk) -> Finish:
    assert chunk.finish is not None
    return chunk.finish


async def repeated(engine: TextEngine, tokens: int = 60) -> RawText:
    """A prompt whose answer was said before in it."""
    start = RawText("abcabcabc")
    text, _ = await collect(engine.generate(ask(tokens, start)))
    return RawText(start.text + text + start.text)


@needs_kernels
async def test_what_guesses_gave_is_counted_and_the_text_is_the_same(engine: TextEngine, plain: TextEngine) -> None:
    prompt = await repeated(plain)
    expected, without = await collect(plain.generate(ask(100, prompt)))
    gate = gated(engine)
    text, last = await collect(engine.generate(ask(100, prompt)))
    usage = finish_of(last).usage
    assert text == expected
    assert finish_of(last).context == finish_of(without).context
    assert (usage.completion_tokens, finish_of(without).usage.accepted_tokens) == (100, 0)
    assert usage.accepted_tokens > 30
    read = len(prompt.text) + 100 - 1 + usage.rejected_tokens
    assert 0 <= gate.tokens - read <= DEEPEST  # guesses beyond the end were neither right nor wrong
    await idle(engine)


@needs_kernels
@pytest.mark.parametrize("tokens", [1, 2, 3, 37])
async def test_an_answer_ends_at_its_last_token_in_the_middle_of_guesses(
    engine: TextEngine, plain: TextEngine, tokens: int
) -> None:
    prompt = await repeated(plain)
    expected, _ = await collect(plain.generate(ask(tokens, prompt)))
    text, last = await collect(engine.generate(ask(tokens, prompt)))
    usage = finish_of(last).usage
    assert (text, usage.completion_tokens) == (expected, tokens)
    assert usage.accepted_tokens < tokens
    await idle(engine)


@needs_kernels
async def test_stop_strings_and_stop_tokens_end_an_answer_in_the_middle_of_guesses(
    engine: TextEngine, plain: TextEngine
) -> None:
    prompt = await repeated(plain)
    full, last = await collect(plain.generate(ask(60, prompt)))
    output = finish_of(last).context[-60:]
    for place in range(20, 44, 3):
        for wishes in ({"stop": (full[place : place + 2],)}, {"stop_token_ids": (output[place],)}):
            request = ask(60, prompt, **wishes)
            expected, end = await collect(plain.generate(request))
            text, guessed = await collect(engine.generate(request))
            assert text == expected
            assert finish_of(guessed).reason is finish_of(end).reason is FinishReason.STOP
            assert finish_of(guessed).context == finish_of(end).context
            assert finish_of(guessed).usage.completion_tokens == finish_of(end).usage.completion_tokens
    await idle(engine)


@needs_kernels
async def test_many_get_with_guesses_what_each_gets_without(engine: TextEngine, plain: TextEngine) -> None:
    prompt = await repeated(plain, 40)
    requests = [replace(ask(50, RawText(prompt.text[start:])), n=1 + start % 2) for start in range(6)]
    expected = [await collect_all(plain.generate(request)) for request in requests]
    assert await asyncio.gather(*(collect_all(engine.generate(request)) for request in requests)) == expected
    await idle(engine)


@needs_kernels
async def test_leaving_in_the_middle_of_guesses_frees_everything(engine: TextEngine, plain: TextEngine) -> None:
    prompt = await repeated(plain)
    for chunks in (1, 20, 33):
        async with aclosing(engine.generate(ask(200, prompt))) as stream:
            for _ in range(chunks):
                await anext(stream)
        await idle(engine)


@needs_kernels
@pytest.mark.parametrize(
    "request_",
    [
        ask(40, temperature=0.7, seed=3),
        ask(40, repetition_penalty=1.2),
        ask(40, presence_penalty=0.5),
        ask(40, logit_bias=((70, 1.0),)),
        ask(40, logprobs=1),
        ask(40, min_tokens=5),
        replace(ask(40), constraint=Regex("(ab)+")),
    ],
    ids=["sampled", "repetition", "presence", "bias", "logprobs", "min_tokens", "form"],
)
async def test_nothing_is_guessed_where_the_largest_logit_is_not_all(
    engine: TextEngine, plain: TextEngine, request_: GenerationRequest
) -> None:
    request = replace(request_, prompt=await repeated(plain))
    usage = finish_of((await _all(engine, request))[-1]).usage
    assert (usage.accepted_tokens, usage.rejected_tokens) == (0, 0)


async def test_torch_layers_do_not_promise_equal_rows_so_nothing_is_guessed(directory: Path) -> None:
    with talking(directory) as engine:
        usage = finish_of((await _all(engine, ask(60, await repeated(engine))))[-1]).usage
    assert (usage.accepted_tokens, usage.rejected_tokens) == (0, 0)


async def _all(engine: TextEngine, request: GenerationRequest) -> list[TextChunk]:
    return [chunk async for chunk in engine.generate(request)]
