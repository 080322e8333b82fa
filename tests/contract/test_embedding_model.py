"""What every EmbeddingModel promises: the engine with a tiny encoder, and the fake that stands for it."""

import asyncio
import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from application.ports import EmbeddingModel
from domain.errors import ContextLengthExceeded, InvalidRequest, RequestCancelled
from domain.model import Model
from models.inference_thread import InferenceThread
from tests.fakes.embedding_model import EmbeddingScript, FakeEmbeddingModel
from tests.models.tiny_encoder import CONTROL_TOKENS, DIMENSIONS, MAX_LENGTH, SPEC, load_encoder, save_encoder, words

TEXTS = (words(3), words(30, 50), words(1, 7), words(12, 100), words(3), words(40, 20))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(params=["engine", "fake"])
def model(request: pytest.FixtureRequest, directory: Path) -> Iterator[EmbeddingModel]:
    if request.param == "engine":
        thread = InferenceThread("test")
        yield load_encoder(directory, thread)
        thread.close()
        return
    info = Model(SPEC).loaded(
        device="cpu",
        dtype="float32",
        quantization="none",
        context_length=MAX_LENGTH,
        memory_bytes=1,
        load_time_ms=1,
    )
    yield FakeEmbeddingModel(info, EmbeddingScript(dimensions=DIMENSIONS))


def is_near(one: "array[float]", other: "array[float]") -> bool:
    return len(one) == len(other) and all(abs(a - b) <= 1e-6 for a, b in zip(one, other, strict=True))


def length_of(vector: "array[float]") -> float:
    return math.sqrt(sum(value * value for value in vector))


async def test_each_text_has_its_vector_in_order_the_same_alone_and_in_a_batch(model: EmbeddingModel) -> None:
    together = await model.embed(TEXTS)
    alone = [await model.embed([text]) for text in TEXTS]
    assert all(is_near(batch, one.vectors[0]) for batch, one in zip(together.vectors, alone, strict=True))
    assert is_near(together.vectors[0], together.vectors[4])
    assert not is_near(together.vectors[0], together.vectors[1])


async def test_vectors_are_of_32_bit_floats_and_have_length_1(model: EmbeddingModel) -> None:
    assert model.dimensions == DIMENSIONS
    for vector in (await model.embed(TEXTS)).vectors:
        assert (vector.typecode, len(vector)) == ("f", DIMENSIONS)
        assert length_of(vector) == pytest.approx(1.0, abs=1e-6)


async def test_tokens_are_counted_as_they_were_read(model: EmbeddingModel) -> None:
    embeddings = await model.embed([words(3), words(500), words(1)])
    assert embeddings.token_counts == (3 + CONTROL_TOKENS, MAX_LENGTH, 1 + CONTROL_TOKENS)
    assert embeddings.total_tokens == sum(embeddings.token_counts)


async def test_a_text_beyond_the_context_is_cut_to_it(model: EmbeddingModel) -> None:
    fitting = words(MAX_LENGTH - CONTROL_TOKENS)
    long, exact, shorter = (
        await model.embed([f"{fitting} w199 w198", fitting, words(MAX_LENGTH - CONTROL_TOKENS - 1)])
    ).vectors
    assert is_near(long, exact)
    assert not is_near(long, shorter)


async def test_without_truncation_a_text_beyond_the_context_is_refused_with_both_numbers(model: EmbeddingModel) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        await model.embed([words(2), words(60)], truncate=False)
    assert refused.value.details == {"prompt_tokens": 62, "context_length": MAX_LENGTH}
    await model.embed([words(MAX_LENGTH - CONTROL_TOKENS)], truncate=False)


@pytest.mark.parametrize("dimensions", [1, 5, DIMENSIONS - 1])
async def test_fewer_dimensions_are_the_first_ones_made_length_1_again(model: EmbeddingModel, dimensions: int) -> None:
    (whole,) = (await model.embed(TEXTS[:1])).vectors
    (cut,) = (await model.embed(TEXTS[:1], dimensions=dimensions)).vectors
    scale = length_of(whole[:dimensions])
    assert is_near(cut, array("f", (value / scale for value in whole[:dimensions])))


@pytest.mark.parametrize("dimensions", [DIMENSIONS, DIMENSIONS + 1, 1 << 20])
async def test_as_many_dimensions_as_the_model_has_or_more_change_nothing(
    model: EmbeddingModel, dimensions: int
) -> None:
    (whole,) = (await model.embed(TEXTS[:1])).vectors
    assert is_near((await model.embed(TEXTS[:1], dimensions=dimensions)).vectors[0], whole)


async def test_vectors_that_are_not_normalised_point_the_same_way(model: EmbeddingModel) -> None:
    (unit,) = (await model.embed(TEXTS[:1])).vectors
    (raw,) = (await model.embed(TEXTS[:1], normalize=False)).vectors
    length = length_of(raw)
    assert abs(length - 1.0) > 0.01
    assert is_near(unit, array("f", (value / length for value in raw)))


@pytest.mark.parametrize("texts", [[], [""], ["w1", "", "w2"], [[]]])
async def test_nothing_to_embed_is_refused(model: EmbeddingModel, texts: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await model.embed(texts)
    assert refused.value.field == "input"


@pytest.mark.parametrize("dimensions", [0, -1])
async def test_less_than_one_dimension_is_refused(model: EmbeddingModel, dimensions: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await model.embed(["w1"], dimensions=dimensions)
    assert refused.value.field == "dimensions"


async def test_token_ids_are_read_as_they_are(model: EmbeddingModel) -> None:
    embeddings = await model.embed([(2, 9, 10, 3), [9]])
    assert embeddings.token_counts == (4, 1)
    with pytest.raises(ContextLengthExceeded):
        await model.embed([[5] * (MAX_LENGTH + 1)], truncate=False)


@pytest.mark.parametrize("token", [-1, 1 << 30])
async def test_a_token_id_outside_the_vocabulary_is_refused(model: EmbeddingModel, token: int) -> None:
    with pytest.raises(InvalidRequest, match="vocabulary"):
        await model.embed([[5, token]])


async def test_many_callers_at_once_get_what_each_gets_alone(model: EmbeddingModel) -> None:
    alone = [(await model.embed([text], dimensions=8)).vectors[0] for text in TEXTS]
    together = await asyncio.gather(*(model.embed([text], dimensions=8) for text in TEXTS))
    assert all(is_near(answer.vectors[0], one) for answer, one in zip(together, alone, strict=True))
    assert model.waiting == 0


async def test_after_an_abort_every_call_is_sent_away(model: EmbeddingModel) -> None:
    model.abort()
    with pytest.raises(RequestCancelled):
        await model.embed(TEXTS)
