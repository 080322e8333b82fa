"""POST /v1/embeddings."""

import base64
import math
from array import array
from typing import Any

import httpx2
import orjson
import pytest

from tests.api.openai.frames import Json
from tests.api.world import EMBEDDING, SPEECH, TEXT, Served, World, until

URL = "/v1/embeddings"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": EMBEDDING, "input": "one two", **changes}


async def answer_to(client: httpx2.AsyncClient, **changes: Any) -> Json:
    response = await client.post(URL, json=body(**changes))
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


async def test_an_answer_has_every_key_and_a_vector_of_length_one(client: httpx2.AsyncClient) -> None:
    answer = await answer_to(client, user="somebody")
    (item,) = answer.pop("data")
    assert answer == {"object": "list", "model": EMBEDDING, "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    vector = item.pop("embedding")
    assert item == {"object": "embedding", "index": 0}
    assert len(vector) == 16
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)


async def test_base64_is_the_same_numbers(client: httpx2.AsyncClient) -> None:
    (plain,) = (await answer_to(client, encoding_format="float"))["data"]
    (packed,) = (await answer_to(client, encoding_format="base64"))["data"]
    assert array("f", base64.b64decode(packed["embedding"])).tolist() == plain["embedding"]


@pytest.mark.parametrize(
    ("given", "seen"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([5, 6], ([5, 6],)), ([[5], [6, 7]], ([5], [6, 7]))],
)
async def test_inputs_may_be_texts_or_tokens(
    world: World, client: httpx2.AsyncClient, given: Any, seen: tuple[Any, ...]
) -> None:
    answer = await answer_to(client, input=given)
    (call,) = world.repository.embedding(EMBEDDING).calls
    assert (call.texts, call.truncate) == (seen, False)
    assert [item["index"] for item in answer["data"]] == list(range(len(seen)))


async def test_a_batch_is_the_same_as_one_by_one_also_when_it_is_large(client: httpx2.AsyncClient) -> None:
    texts = [f"text {number}" for number in range(2048)]
    batch = (await answer_to(client, input=texts))["data"]
    assert len(batch) == 2048
    for number in (0, 1000, 2047):
        assert (await answer_to(client, input=texts[number]))["data"][0]["embedding"] == batch[number]["embedding"]


async def test_dimensions_cut_and_normalise_again(client: httpx2.AsyncClient) -> None:
    (item,) = (await answer_to(client, dimensions=5))["data"]
    assert len(item["embedding"]) == 5
    assert math.hypot(*item["embedding"]) == pytest.approx(1, abs=1e-6)


async def test_keep_alive_is_honoured(world: World, client: httpx2.AsyncClient) -> None:
    await answer_to(client, keep_alive=90)
    (resident,) = world.pool.residents()
    assert resident.expires_at == pytest.approx(resident.last_used_at + 90)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"model": None}, "model", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input", "invalid_value"),
        ({"input": [[1], []]}, "input", "invalid_value"),
        ({"input": ["a", 5]}, "input", "invalid_value"),
        ({"input": {"text": "a"}}, "input", "invalid_value"),
        ({"input": [True]}, "input", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": [99_999]}, "input", "invalid_value"),
        ({"input": "word " * 300}, None, "context_length_exceeded"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"dimensions": 17}, "dimensions", "invalid_value"),
        ({"dimensions": "5"}, "dimensions", "invalid_value"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"model": TEXT, "input": "word " * 9000}, None, "context_length_exceeded"),
        ({"model": TEXT, "input": [99_999]}, "input", "invalid_value"),
        ({"model": TEXT, "dimensions": 99}, "dimensions", "invalid_value"),
        ({"model": SPEECH}, "model", "unsupported_capability"),
    ],
)
async def test_what_cannot_be_embedded_is_400(
    client: httpx2.AsyncClient, changes: dict[str, Any], param: str | None, code: str
) -> None:
    response = await client.post(URL, json=body(**changes))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error


async def test_a_text_model_makes_vectors_by_the_same_rules(client: httpx2.AsyncClient) -> None:
    batch = await answer_to(client, model=TEXT, input=["one two", "three"])
    assert batch["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    (one,) = (await answer_to(client, model=TEXT))["data"]
    assert one == batch["data"][0]
    assert math.hypot(*one["embedding"]) == pytest.approx(1, abs=1e-6)
    (by_token,) = (await answer_to(client, model=TEXT, input=[5, 6], dimensions=5))["data"]
    assert len(by_token["embedding"]) == 5


async def test_an_overflow_names_both_numbers(client: httpx2.AsyncClient) -> None:
    response = await client.post(URL, json=body(input="word " * 300))
    assert "302" in response.json()["error"]["message"]
    assert "256" in response.json()["error"]["message"]


async def test_a_client_that_leaves_ends_the_work(world: World, server: Served) -> None:
    gate = world.repository.script(EMBEDDING).embedding.before.shut()
    _, writer = await server.connect()
    content = orjson.dumps(body())
    writer.write(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (URL.encode(), len(content)))
    writer.write(content)
    await gate.arrived()
    writer.close()
    await until(lambda: not world.repository.embedding(EMBEDDING).in_flight)
    assert world.repository.embedding(EMBEDDING).closed == 1
