"""What a request may say of its prompt and its context: what was read, limits, and going on beyond."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from domain.errors import ContextLengthExceeded
from domain.generation import WHOLE_PROMPT, FinishReason, GenerationRequest, PromptToken, TextChunk
from domain.prompt import RawText
from models.text.engine import TextEngine
from models.text.prompt_scores import PromptScores
from models.text.sequence import Sequence
from tests.models.running import GREEDY, Bench, load_tiny
from tests.models.talking import ask, collect, idle, talking
from tests.models.tiny import save_tiny

LONG = RawText("It was a bright cold day in April, and the clocks were striking thirteen. " * 2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", talks=True)


@pytest.fixture(scope="module")
def engine(directory: Path) -> Iterator[TextEngine]:
    with talking(directory) as engine:
        yield engine


async def first_chunks(engine: TextEngine, request: GenerationRequest) -> dict[int, TextChunk]:
    """The first chunk of each answer; none of the others tells of the prompt."""
    first: dict[int, TextChunk] = {}
    async for chunk in engine.generate(request):
        assert chunk.index not in first or not chunk.prompt
        first.setdefault(chunk.index, chunk)
    return first


@pytest.mark.parametrize("tokens", [0, 3])
async def test_a_prompt_is_told_with_what_the_model_thinks_of_it(
    engine: TextEngine, directory: Path, tokens: int
) -> None:
    ids = list(await engine.encode(LONG))
    bench = Bench(load_tiny(directory))
    reference = bench.logits_of(ids).log_softmax(dim=1)
    request = replace(ask(tokens, LONG), prompt_logprobs=2, n=2)
    for _ in range(2):  # the second time the prompt is in the cache
        first = await first_chunks(engine, request)
        assert first[0].prompt == first[1].prompt
        told = first[0].prompt
        assert [entry.token_id for entry in told] == ids
        assert "".join(entry.text for entry in told) == LONG.text
        assert told[0] == PromptToken(ids[0], "I", b"I", None)
        for place, entry in enumerate(told[1:]):
            assert entry.logprob == pytest.approx(float(reference[place, ids[place + 1]]), abs=1e-3)
            assert [other.logprob for other in entry.top] == pytest.approx(
                reference[place].topk(2).values.tolist(), abs=1e-3
            )
    await idle(engine)


async def test_a_prompt_of_one_token_has_nothing_to_be_scored(engine: TextEngine) -> None:
    first = await first_chunks(engine, replace(ask(2, RawText("a")), prompt_logprobs=0))
    assert [(entry.logprob, entry.top) for entry in first[0].prompt] == [(None, ())]


def test_scores_survive_a_preemption(directory: Path) -> None:
    model = load_tiny(directory)
    ids = list(range(3, 40))

    def scored(blocks: int) -> tuple[list[float], int]:
        bench = Bench(model, blocks=blocks)
        watched = Sequence(1000, list(ids), GREEDY, 30, frozenset(), 0.0)
        watched.scores = PromptScores(len(ids), 0)
        bench.run([bench.sequence(range(3, 30), 40), watched])
        return [logprob for _, logprob, _ in watched.scores.known], bench.scheduler.preemptions

    calm, none = scored(64)
    disturbed, some = scored(13)
    assert (len(calm), none) == (len(ids) - 1, 0)
    assert some > 0
    assert disturbed == pytest.approx(calm, abs=1e-4)


async def test_a_request_s_own_context_bounds_it(engine: TextEngine) -> None:
    length = len(await engine.encode(LONG))
    _, last = await collect(engine.generate(replace(ask(400, LONG), num_ctx=length + 5)))
    assert last.finish is not None
    assert (last.finish.reason, last.finish.usage.completion_tokens) == (FinishReason.LENGTH, 5)
    with pytest.raises(ContextLengthExceeded) as caught:
        await collect(engine.generate(replace(ask(4, LONG), num_ctx=length)))
    assert caught.value.details["context_length"] == length
    _, last = await collect(engine.generate(replace(ask(4, LONG), num_ctx=2**31)))
    assert last.finish is not None
    assert last.finish.usage.completion_tokens == 4


async def test_an_answer_goes_on_beyond_a_full_context(engine: TextEngine, directory: Path) -> None:
    length = len(await engine.encode(LONG))
    request = replace(ask(150, LONG), num_ctx=length + 32, shift_keeping=4)
    text, last = await collect(engine.generate(request))
    assert last.finish is not None
    assert (last.finish.usage.prompt_tokens, last.finish.usage.completion_tokens) == (length, 150)
    assert len(text) == 150
    assert len(last.finish.context) < length + 32
    # What comes after the shift is what the model says to the text that is left.
    unshifted, _ = await collect(engine.generate(ask(150, LONG)))
    assert text[:32] == unshifted[:32]
    left = LONG.text + text[:32]
    half = (len(left) - 4) // 2
    again, _ = await collect(engine.generate(ask(20, RawText(left[:4] + left[4 + half :]))))
    assert text[32:52] == again
    await idle(engine)


async def test_the_whole_prompt_can_be_kept(engine: TextEngine) -> None:
    length = len(await engine.encode(LONG))
    kept = {}
    for keeping in (WHOLE_PROMPT, length, 4):
        request = replace(ask(length + 30, LONG), num_ctx=2 * length, shift_keeping=keeping)
        _, last = await collect(engine.generate(request))
        assert last.finish is not None
        kept[keeping] = last.finish.context
    assert kept[WHOLE_PROMPT] == kept[length] != kept[4]
    assert kept[WHOLE_PROMPT][:length] == await engine.encode(LONG)


async def test_an_endless_answer_ends_after_ten_contexts(engine: TextEngine) -> None:
    request = replace(ask(4, RawText("ab")), num_ctx=16, shift_keeping=0)
    request = replace(request, sampling=replace(request.sampling, max_tokens=None))
    _, last = await collect(engine.generate(request))
    assert last.finish is not None
    assert (last.finish.reason, last.finish.usage.completion_tokens) == (FinishReason.LENGTH, 160)


def test_a_shift_drops_the_older_half_of_what_is_not_kept() -> None:
    sequence = Sequence(0, list(range(6)), GREEDY, 99, frozenset(), 0.0, context=10, keeping=2)
    for token in range(6, 10):
        assert not sequence.is_full
        sequence.append(token)
    assert sequence.is_full
    sequence.shift()
    assert sequence.ids == [0, 1, 6, 7, 8, 9]
    assert (list(sequence.output_ids), sequence.new_tokens, sequence.prompt_length) == ([6, 7, 8, 9], 4, 6)
    sequence.keeping = 99
    for token in range(10, 14):
        sequence.append(token)
    sequence.shift()
    assert sequence.ids == [0, 1, 6, 7, 8, 11, 12, 13]
    assert (list(sequence.output_ids), sequence.new_tokens) == ([6, 7, 8, 11, 12, 13], 8)
