"""Guesses through the engine: what they gave is counted, and no answer is another one for them."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from domain.constraint import Regex
from domain.generation import Finish, FinishReason, GenerationRequest, TextChunk
from domain.prompt import RawText
from models.text.engine import TextEngine
from models.text.lookup import DEEPEST
from models.text.native.library import library, why_not
from models.text.scheduler import Limits
from models.text.weights import LoadedWeights
from tests.models.running import Bench, load_tiny
from tests.models.talking import LIMITS, ask, collect, collect_all, gated, idle, talking
from tests.models.tiny import save_tiny

needs_kernels = pytest.mark.skipif(library() is None, reason=f"needs native kernels: {why_not()}")


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
