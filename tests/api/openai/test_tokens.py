"""POST /tokenize and /detokenize, native and under /v1."""

from typing import Any

import httpx2
import pytest

from tests.api.world import EMBEDDING, SPEECH, TEXT, World
from tests.fakes.text_model import token_id
from tests.fakes.tokenizers import BEGIN

ONE, TWO = token_id("one"), token_id(" two")
NATIVE_AND_OPENAI = pytest.mark.parametrize("prefix", ["", "/v1"])


@NATIVE_AND_OPENAI
@pytest.mark.parametrize("name", ["prompt", "content"])
async def test_a_text_becomes_tokens_without_a_load(
    world: World, client: httpx2.AsyncClient, prefix: str, name: str
) -> None:
    response = await client.post(f"{prefix}/tokenize", json={name: "one two"})
    assert response.status_code == 200, response.text
    assert response.json() == {"tokens": [BEGIN, ONE, TWO], "count": 3, "max_model_len": 4096, "token_strs": None}
    assert world.repository.loads == []


@pytest.mark.parametrize("name", ["add_special_tokens", "add_special"])
async def test_special_tokens_can_be_left_out(client: httpx2.AsyncClient, name: str) -> None:
    response = await client.post("/tokenize", json={"model": TEXT, "prompt": "one two", name: False})
    assert response.json()["tokens"] == [ONE, TWO]


async def test_tokens_can_be_spelled(client: httpx2.AsyncClient) -> None:
    body = {"prompt": "one two", "add_special": False}
    spelled = (await client.post("/tokenize", json={**body, "return_token_strs": True})).json()
    assert spelled["token_strs"] == ["one", " two"]
    pieces = (await client.post("/tokenize", json={**body, "with_pieces": True})).json()
    assert pieces["tokens"] == [{"id": ONE, "piece": "one"}, {"id": TWO, "piece": " two"}]
    assert (pieces["count"], pieces["token_strs"]) == (2, None)


async def test_no_text_has_no_tokens(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/tokenize", json={"prompt": ""})).json()["tokens"] == []


async def test_a_chat_is_counted_as_the_model_reads_it(client: httpx2.AsyncClient) -> None:
    messages = [{"role": "system", "content": "one"}, {"role": "user", "content": " two"}]
    body = {"messages": messages, "tools": [{"type": "function", "function": {"name": "f"}}]}
    response = await client.post("/v1/tokenize", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["tokens"] == [BEGIN, ONE, TWO]


@NATIVE_AND_OPENAI
async def test_tokens_become_text_under_both_names(client: httpx2.AsyncClient, prefix: str) -> None:
    await client.post("/tokenize", json={"prompt": "one two"})
    response = await client.post(f"{prefix}/detokenize", json={"tokens": [ONE, TWO]})
    assert response.json() == {"prompt": "one two", "content": "one two"}


async def test_the_context_is_that_of_the_loaded_model(world: World, client: httpx2.AsyncClient) -> None:
    body = {"model": EMBEDDING, "prompt": "one"}
    assert (await client.post("/tokenize", json=body)).json()["max_model_len"] == 256
    await world.pool.load(EMBEDDING)
    assert (await client.post("/tokenize", json=body)).json()["max_model_len"] == 256


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("tokenize", {"prompt": "a", "content": "a"}, "content"),
        ("tokenize", {"prompt": "a", "messages": []}, "messages"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"messages": [{"role": "x"}]}, "messages.0.role"),
        ("tokenize", {"prompt": "a", "tools": [{"function": {"name": "f"}}]}, "tools"),
        ("tokenize", {"prompt": "a", "add_special": True, "add_special_tokens": False}, "add_special"),
        ("tokenize", {"prompt": "a", "model": SPEECH}, "model"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": ["a"]}, "tokens.0"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
        ("detokenize", {"tokens": [32_000]}, "tokens"),
    ],
)
async def test_what_is_wrong_is_422_and_under_v1_400(
    client: httpx2.AsyncClient, route: str, body: dict[str, Any], field: str
) -> None:
    native = await client.post(f"/{route}", json=body)
    assert native.status_code == 422, native.text
    assert native.headers["content-type"] == "application/problem+json"
    assert native.json()["errors"][0]["loc"] == ["body", *field.split(".")] or field == "tokens.0"
    openai = await client.post(f"/v1/{route}", json=body)
    assert (openai.status_code, openai.json()["error"]["param"]) == (400, field)


@NATIVE_AND_OPENAI
async def test_an_unknown_model_is_404(client: httpx2.AsyncClient, prefix: str) -> None:
    assert (await client.post(f"{prefix}/tokenize", json={"model": "nobody", "prompt": "a"})).status_code == 404


async def test_only_native_routes_take_json_of_any_name(client: httpx2.AsyncClient) -> None:
    content, headers = b'{"prompt": "one"}', {"content-type": "text/plain"}
    assert (await client.post("/tokenize", content=content, headers=headers)).status_code == 200
    assert (await client.post("/v1/tokenize", content=content, headers=headers)).status_code == 415
