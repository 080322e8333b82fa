"""POST /api/embed and /api/embeddings."""

import math
from typing import Any

import httpx2
import pytest

from domain.errors import Overloaded
from tests.api.ollama.asking import refused, whole
from tests.api.world import EMBEDDING, SPEECH, TEXT, World


async def test_one_vector_of_length_1_for_each_input_in_order(client: httpx2.AsyncClient) -> None:
    texts = ["one two", "three", "one two"]
    answer = whole(await client.post("/api/embed", json={"model": EMBEDDING, "input": texts}))
    first, second, third = answer["embeddings"]
    assert first == third != second
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-6) for vector in (first, second, third))
    assert answer["prompt_eval_count"] == 4 + 3 + 4
    assert isinstance(answer["total_duration"], int) and isinstance(answer["load_duration"], int)
    alone = whole(await client.post("/api/embed", json={"model": EMBEDDING, "input": "one two"}))
    assert alone["embeddings"] == [first]
    assert answer["model"] == EMBEDDING


@pytest.mark.parametrize(("dimensions", "length"), [(None, 16), (0, 16), (4, 4), (99, 16)])
async def test_vectors_can_be_cut_and_keep_their_length(
    client: httpx2.AsyncClient, dimensions: int | None, length: int
) -> None:
    body = {"model": EMBEDDING, "input": "one", "dimensions": dimensions}
    (vector,) = whole(await client.post("/api/embed", json=body))["embeddings"]
    assert len(vector) == length
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("nothing", [{}, {"input": ""}, {"input": []}, {"input": None}, {"input": [""]}])
async def test_nothing_to_embed_loads_the_model(
    world: World, client: httpx2.AsyncClient, nothing: dict[str, Any]
) -> None:
    answer = whole(await client.post("/api/embed", json={"model": EMBEDDING, **nothing}))
    assert answer == {"model": EMBEDDING, "embeddings": []}
    assert world.repository.in_memory == {EMBEDDING}


@pytest.mark.parametrize("wrong", [5, {"a": 1}, [5], [["a"]], True])
async def test_another_type_of_input_is_refused(client: httpx2.AsyncClient, wrong: object) -> None:
    response = await client.post("/api/embed", json={"model": EMBEDDING, "input": wrong})
    refused(response, 400, "invalid input type")


async def test_a_text_that_is_too_long_is_cut_and_said_so(client: httpx2.AsyncClient) -> None:
    body = {"model": EMBEDDING, "input": ["a", "w " * 9000]}
    response = await client.post("/api/embed", json=body)
    assert len(whole(response)["embeddings"]) == 2
    assert response.headers["x-truncated"] == "true"
    response = await client.post("/api/embed", json={**body, "truncate": False})
    refused(response, 400, "the input length exceeds the context length")
    assert "x-truncated" not in (await client.post("/api/embed", json={**body, "input": "a"})).headers


async def test_the_old_route_gives_one_vector_as_the_model_pools_it(world: World, client: httpx2.AsyncClient) -> None:
    answer = whole(await client.post("/api/embeddings", json={"model": EMBEDDING, "prompt": "one two"}))
    assert set(answer) == {"embedding"}
    assert math.hypot(*answer["embedding"]) != pytest.approx(1, abs=1e-3)
    assert world.repository.embedding(EMBEDDING).calls[-1].normalize is False
    for body in ({"prompt": ""}, {}):
        answer = whole(await client.post("/api/embeddings", json={"model": EMBEDDING, **body}))
        assert answer == {"embedding": []}


async def test_unknown_models_have_a_text_for_each_route(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/embed", json={"model": "x", "input": "a"})
    refused(response, 404, "model 'x' not found")
    response = await client.post("/api/embed", json={"input": "a"})
    refused(response, 404, "model '' not found")
    response = await client.post("/api/embeddings", json={"model": "x", "prompt": "a"})
    refused(response, 404, 'model "x" not found, try pulling it first')


async def test_a_speech_model_makes_no_vectors(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/embed", json={"model": SPEECH, "input": "a"})
    refused(response, 400, f"{SPEECH} does not support embedding")
    response = await client.post("/api/embeddings", json={"model": SPEECH, "prompt": "a"})
    refused(response, 400, f"{SPEECH} does not support embedding")


async def test_a_text_model_makes_vectors_by_the_same_rules(world: World, client: httpx2.AsyncClient) -> None:
    assert whole(await client.post("/api/embed", json={"model": TEXT, "input": []}))["embeddings"] == []
    assert world.repository.in_memory == {TEXT}
    texts = ["one two", "three", "one two"]
    answer = whole(await client.post("/api/embed", json={"model": TEXT, "input": texts}))
    first, second, third = answer["embeddings"]
    assert first == third != second
    assert math.hypot(*first) == pytest.approx(1, abs=1e-6)
    assert answer["prompt_eval_count"] == 2 + 1 + 2
    (cut,) = whole(await client.post("/api/embed", json={"model": TEXT, "input": "a", "dimensions": 3}))["embeddings"]
    assert len(cut) == 3
    raw = whole(await client.post("/api/embeddings", json={"model": TEXT, "prompt": "one two"}))["embedding"]
    assert [value / math.hypot(*raw) for value in raw] == pytest.approx(first, abs=1e-6)
    long = {"model": TEXT, "input": "w " * 9000}
    assert (await client.post("/api/embed", json=long)).headers["x-truncated"] == "true"
    response = await client.post("/api/embed", json={**long, "truncate": False})
    refused(response, 400, "the input length exceeds the context length")
    whole(await client.post("/api/embed", json={"model": TEXT, "input": [], "keep_alive": 0}))
    assert world.repository.in_memory == set()


async def test_too_many_inputs_are_refused(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/embed", json={"model": EMBEDDING, "input": ["a"] * 2049})
    assert response.status_code == 400


async def test_a_full_queue_is_told(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(EMBEDDING).embedding.error = Overloaded()
    response = await client.post("/api/embed", json={"model": EMBEDDING, "input": "a"})
    refused(response, 503, "server busy, please try again.  maximum pending requests exceeded")
