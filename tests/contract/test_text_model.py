"""What every TextModel promises: the engine with a tiny random model, and the fake that stands for it."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from application.ports import TextModel
from domain.embedding import EmbeddingInput
from domain.errors import ContextLengthExceeded, InvalidRequest, RequestCancelled
from domain.generation import FinishReason, GenerationRequest, TextChunk
from domain.model import Model
from domain.prompt import Chat, Continuation, Message, RawText, Role
from tests.fakes.models import text_spec
from tests.fakes.text_model import FakeTextModel, TextScript
from tests.models.talking import ask, talking
from tests.models.tiny import save_tiny

PROMPTS = [RawText("Once upon a time"), RawText("There was"), RawText("a b c d e f g h i")]
USER = Chat((Message(Role.USER, "and then?"),))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", talks=True)


@pytest.fixture(params=["engine", "fake"])
def model(request: pytest.FixtureRequest, directory: Path) -> Iterator[TextModel]:
    if request.param == "engine":
        with talking(directory) as engine:
            yield engine
        return
    info = Model(text_spec("tiny:latest")).loaded(
        device="cpu", dtype="float32", quantization="none", context_length=512, memory_bytes=1, load_time_ms=1
    )
    yield FakeTextModel(info, TextScript())


async def collect(model: TextModel, request: GenerationRequest) -> list[TextChunk]:
    async with aclosing(model.generate(request)) as chunks:
        return [chunk async for chunk in chunks]


def text_of(chunks: list[TextChunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


async def test_the_last_chunk_and_only_it_has_the_figures(model: TextModel) -> None:
    chunks = await collect(model, ask(4))
    assert [chunk.finish is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    finish = chunks[-1].finish
    assert finish is not None
    assert finish.usage.prompt_tokens == len(await model.encode(PROMPTS[0]))
    assert finish.usage.completion_tokens == 4
    assert len(finish.context) == finish.usage.total_tokens


@pytest.mark.parametrize("tokens", [0, 1])
async def test_the_smallest_answers_have_one_end_too(model: TextModel, tokens: int) -> None:
    chunks = await collect(model, ask(tokens))
    finish = chunks[-1].finish
    assert finish is not None
    assert (finish.reason, finish.usage.completion_tokens) == (FinishReason.LENGTH, tokens)
    assert bool(text_of(chunks)) is bool(tokens)


async def test_each_of_several_answers_ends_once(model: TextModel) -> None:
    chunks = await collect(model, replace(ask(3), n=3))
    assert sorted(chunk.index for chunk in chunks if chunk.finish is not None) == [0, 1, 2]
    assert text_of(chunks, 0) == text_of(chunks, 1) == text_of(chunks, 2)


async def test_many_at_once_get_what_each_gets_alone(model: TextModel) -> None:
    alone = [text_of(await collect(model, ask(8, prompt))) for prompt in PROMPTS]
    together = await asyncio.gather(*(collect(model, ask(8, prompt)) for prompt in PROMPTS))
    assert [text_of(chunks) for chunks in together] == alone


async def test_no_part_of_a_stop_string_is_shown(model: TextModel) -> None:
    whole = text_of(await collect(model, ask(4)))
    stop = whole[2:4]
    chunks = await collect(model, ask(4, stop=(stop,)))
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP


async def test_an_answer_s_context_can_be_continued(model: TextModel) -> None:
    finish = (await collect(model, ask(4)))[-1].finish
    assert finish is not None
    further = (await collect(model, ask(1, Continuation(finish.context, USER))))[-1].finish
    assert further is not None
    assert further.context[: len(finish.context)] == finish.context


async def test_a_token_outside_the_vocabulary_is_refused(model: TextModel) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await collect(model, ask(4, Continuation((2**40,), USER)))
    assert caught.value.field == "context"


async def test_a_prompt_beyond_the_context_is_refused(model: TextModel) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        await collect(model, ask(4, RawText("a " * model.info.context_length)))
    assert caught.value.details["context_length"] == model.info.context_length


async def test_a_request_s_own_context_bounds_prompt_and_answer(model: TextModel) -> None:
    length = len(await model.encode(PROMPTS[0]))
    finish = (await collect(model, replace(ask(4), num_ctx=length + 2)))[-1].finish
    assert finish is not None
    assert (finish.reason, finish.usage.completion_tokens) == (FinishReason.LENGTH, 2)
    with pytest.raises(ContextLengthExceeded) as caught:
        await collect(model, replace(ask(4), num_ctx=length))
    assert caught.value.details["context_length"] == length


@pytest.mark.parametrize("tokens", [0, 3])
async def test_the_prompt_is_told_with_the_first_chunk_of_each_answer(model: TextModel, tokens: int) -> None:
    told: dict[int, list[TextChunk]] = {}
    for chunk in await collect(model, replace(ask(tokens), n=2, prompt_logprobs=1)):
        told.setdefault(chunk.index, []).append(chunk)
    ids = await model.encode(PROMPTS[0])
    for first, *others in told.values():
        assert tuple(entry.token_id for entry in first.prompt) == ids
        assert [entry.logprob is None for entry in first.prompt] == [True] + [False] * (len(ids) - 1)
        assert all(len(entry.top) == 1 for entry in first.prompt[1:])
        assert not any(chunk.prompt for chunk in others)
    assert all(not chunk.prompt for chunk in await collect(model, ask(3)))


async def test_an_answer_goes_on_where_its_last_message_ends(model: TextModel) -> None:
    begun = Chat((*USER.messages, Message(Role.ASSISTANT, "and then")), continue_final_message=True)
    finish = (await collect(model, ask(3, begun)))[-1].finish
    assert finish is not None
    assert finish.usage.prompt_tokens == len(await model.encode(begun))


async def test_a_closed_answer_leaves_the_others_alone(model: TextModel) -> None:
    whole = text_of(await collect(model, ask(4)))
    leaving = model.generate(ask(4))
    await anext(leaving)
    staying = asyncio.create_task(collect(model, ask(4)))
    await leaving.aclose()
    assert text_of(await staying) == whole
    assert model.waiting == 0


async def test_abort_ends_every_answer_and_is_for_good(model: TextModel) -> None:
    opened = model.generate(ask(400, RawText("a " * 60)))
    await anext(opened)
    model.abort()
    with pytest.raises(RequestCancelled):
        while True:
            await anext(opened)
    with pytest.raises(RequestCancelled):
        await collect(model, ask(4))


# -- vectors of texts -----------------------------------------------------------------------------

TEXTS = ["Once upon a time", "there was", "Once upon a time", "a " * 100]


async def test_each_text_has_a_vector_of_length_1_the_same_alone_and_in_a_batch(model: TextModel) -> None:
    together = await model.embed(TEXTS)
    assert together.token_counts[0] == len(await model.encode(RawText(TEXTS[0])))
    for text, vector in zip(TEXTS, together.vectors, strict=True):
        assert (vector.typecode, len(vector)) == ("f", model.dimensions)
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-6)
        (alone,) = (await model.embed([text])).vectors
        assert alone.tolist() == pytest.approx(vector.tolist(), abs=1e-6)
    assert together.vectors[0].tolist() == pytest.approx(together.vectors[2].tolist(), abs=1e-6)
    assert together.vectors[0].tolist() != pytest.approx(together.vectors[1].tolist(), abs=1e-3)


async def test_vectors_can_be_cut_or_had_as_they_are(model: TextModel) -> None:
    (raw,) = (await model.embed(TEXTS[:1], normalize=False)).vectors
    length = math.hypot(*raw)
    assert abs(length - 1.0) > 0.01
    (whole,) = (await model.embed(TEXTS[:1], dimensions=1 << 20)).vectors
    assert whole.tolist() == pytest.approx([value / length for value in raw], abs=1e-6)
    (cut,) = (await model.embed(TEXTS[:1], dimensions=5)).vectors
    assert cut.tolist() == pytest.approx([value / math.hypot(*raw[:5]) for value in raw[:5]], abs=1e-6)


async def test_a_text_beyond_the_context_is_cut_or_refused(model: TextModel) -> None:
    room = model.info.context_length - 1
    ids = [5 + place % 7 for place in range(room + 40)]
    long, exact = (await model.embed([ids, ids[:room]])).vectors
    assert long.tolist() == pytest.approx(exact.tolist(), abs=1e-6)
    with pytest.raises(ContextLengthExceeded):
        await model.embed([ids], truncate=False)
    await model.embed([ids[:room]], truncate=False)


async def test_nothing_to_embed_and_ids_that_mean_nothing_are_refused(model: TextModel) -> None:
    inputs: list[list[EmbeddingInput]] = [[], [""], ["a", []], [[1 << 30]]]
    for texts in inputs:
        with pytest.raises(InvalidRequest) as refused:
            await model.embed(texts)
        assert refused.value.field == "input"
