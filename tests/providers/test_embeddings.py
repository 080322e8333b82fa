"""Vectors of a provider: checked, cut, made length 1."""

import math
from typing import Any

import pytest

from domain.errors import BadResponse, InvalidRequest, RequestCancelled, UnsupportedParameter
from domain.model import Model, Task
from infrastructure.clock import SystemClock
from infrastructure.providers.connection import Connection
from infrastructure.providers.embedding_model import MAX_TEXTS, ProvidedEmbeddingModel
from infrastructure.providers.entry import ProvidedModel
from infrastructure.providers.events import MAX_ANSWER
from tests.providers.stub import JSON, Reply, StubProvider, failing, stub_provider, whole


def model_of(stub: StubProvider) -> ProvidedEmbeddingModel:
    provided = ProvidedModel("vectors", "bge", stub.entry(), Task.EMBEDDING, 512, ("embedding",), dimensions=3)
    info = Model(provided.spec).loaded(
        device="remote", dtype="auto", quantization="auto", context_length=512, memory_bytes=0, load_time_ms=0
    )
    return ProvidedEmbeddingModel(provided, info, Connection(stub.entry(), SystemClock(), jitter=lambda: 0.5))


def vectors(*told: Any, tokens: Any = 6) -> Reply:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(told)]
    return whole({"data": data[::-1], "usage": {"prompt_tokens": tokens}})


async def test_vectors_come_in_order_of_length_1_and_cut_to_what_was_asked() -> None:
    async with stub_provider(vectors([3.0, 4, 0.0], [0.0, 0.0, 2.0])) as stub:
        model = model_of(stub)
        whole_ones = await model.embed(["ab", "abcd"])
        cut = await model.embed(["ab", "abcd"], dimensions=1)
    assert [list(vector) for vector in whole_ones.vectors] == [pytest.approx([0.6, 0.8, 0.0]), [0.0, 0.0, 1.0]]
    assert [list(vector) for vector in cut.vectors] == [[1.0], [0.0]]
    assert whole_ones.token_counts == (2, 4)
    assert stub.requests[0].body == {"model": "bge", "input": ["ab", "abcd"], "encoding_format": "float"}


async def test_many_texts_are_asked_for_in_several_calls() -> None:
    batch = [[float(number), 1.0, 0.0] for number in range(MAX_TEXTS)]
    async with stub_provider(vectors(*batch), vectors([0.0, 0.0, 1.0])) as stub:
        embeddings = await model_of(stub).embed([f"t{number}" for number in range(MAX_TEXTS + 1)])
        assert [len(request.body["input"]) for request in stub.requests] == [MAX_TEXTS, 1]
    assert len(embeddings.vectors) == MAX_TEXTS + 1
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-6) for vector in embeddings.vectors)


@pytest.mark.parametrize(
    "reply",
    [
        vectors(),
        vectors([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        vectors([1.0, 0.0]),
        vectors(["1", 0.0, 0.0]),
        vectors([True, 0.0, 0.0]),
        vectors("AAAA"),
        whole({"data": [3]}),
        whole({"data": [{"index": 5, "embedding": [1.0, 0.0, 0.0]}]}),
        whole([1]),
        Reply(headers=JSON, pieces=(b"{]",)),
        Reply(headers=JSON, pieces=(b" " * (1 << 20),) * (MAX_ANSWER // (1 << 20) + 2)),
    ],
    ids=["none", "two", "short", "text", "bool", "base64", "no object", "no such", "list", "garbage", "endless"],
)
async def test_an_answer_that_is_not_what_was_asked_for_is_refused(reply: Reply) -> None:
    async with stub_provider(reply) as stub:
        with pytest.raises(BadResponse):
            await model_of(stub).embed(["a"])


async def test_what_the_provider_cannot_do_is_refused_by_name() -> None:
    async with stub_provider(vectors([1.0, 0.0, 0.0])) as stub:
        model = model_of(stub)
        with pytest.raises(UnsupportedParameter) as caught:
            await model.embed(["a"], normalize=False)
        assert caught.value.field == "normalize"
        with pytest.raises(UnsupportedParameter) as caught:
            await model.embed([(1, 2)])
        assert caught.value.field == "input"
        with pytest.raises(InvalidRequest):
            await model.embed([])
        assert stub.requests == []


async def test_a_text_that_is_too_long_is_the_provider_s_to_refuse() -> None:
    async with stub_provider(failing(400, "too long")) as stub:
        with pytest.raises(InvalidRequest, match="too long"):
            await model_of(stub).embed(["a"])


async def test_a_failed_call_is_made_again_and_abort_is_for_good() -> None:
    async with stub_provider(failing(503), vectors([1.0, 0.0, 0.0])) as stub:
        model = model_of(stub)
        assert list((await model.embed(["a"])).vectors[0]) == [1.0, 0.0, 0.0]
        assert model.waiting == 0
        model.abort()
        with pytest.raises(RequestCancelled):
            await model.embed(["a"])
