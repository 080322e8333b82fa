"""Which of its two forms a body of /generate has, and what becomes of it."""

import httpx2
import pytest

from domain.prompt import Chat, Continuation, Message, RawText, Role
from tests.api.world import TEXT, World

ANALYSIS = {"query": "Why?"}
COMPLETION = {"prompt": "Hello there"}


@pytest.mark.parametrize(
    "body",
    [
        {"query": "Why?"},
        {"query": "Why?", "context": ["a", "b"]},
        {"query": "Why?", "model": TEXT},
        {"query": "Why?", "model_id": TEXT},
        {"query": "Why?", "model": TEXT, "model_id": TEXT},
        {"query": "Why?", "use_async": False},
        {"query": "Why?", "use_async": True},
        {"query": "Why?", "stream": False},
        {"query": "Why?", "raw": False, "options": {}, "tools": [], "format": None},
    ],
)
async def test_a_body_with_query_is_an_analysis(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    response = await client.post("/generate", json=body)
    assert response.status_code == 200
    assert response.json()["success"] is True
    assert "result" in response.json()


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Hello there"},
        {"prompt": "Hello there", "context": [1, 2]},
        {"messages": [{"role": "user", "content": "Hello there"}]},
        {"model": TEXT, "prompt": "Hello there"},
        {"model": TEXT},
        {"model_id": TEXT},
        {"model": TEXT, "stream": True},
    ],
)
async def test_a_body_without_query_is_a_completion(client: httpx2.AsyncClient, body: dict[str, object]) -> None:
    response = await client.post("/generate", json=body)
    assert response.status_code == 200
    assert response.json()["done"] is True
    assert "response" in response.json()


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"query": "Why?", "prompt": "Hello"}, ["body", "prompt"]),
        ({"query": "Why?", "messages": []}, ["body", "messages"]),
        ({"query": None, "prompt": "Hello"}, ["body", "prompt"]),
        ({}, ["body"]),
        ({"stream": True, "temperature": 1}, ["body"]),
        ({"context": ["a"]}, ["body"]),
    ],
)
async def test_a_body_of_both_forms_or_of_none_is_refused(
    client: httpx2.AsyncClient, body: dict[str, object], loc: list[str]
) -> None:
    response = await client.post("/generate", json=body)
    assert response.status_code == 422
    assert response.json()["code"] == "validation_error"
    assert response.json()["errors"][0]["loc"] == loc


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
async def test_neither_headers_nor_types_decide_the_form(client: httpx2.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await client.post("/generate", content=b'{"query": "Why?"}', headers=headers)
    assert response.json()["result"] == "Why?"
    response = await client.post(
        "/generate", content=b'{"prompt": "Hello"}', headers={**headers, "accept": "text/event-stream"}
    )
    assert response.json()["response"] == "Hello"


async def test_streaming_an_analysis_is_refused(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json={**ANALYSIS, "stream": True})
    assert (response.status_code, response.json()["code"]) == (422, "unsupported_parameter")


@pytest.mark.parametrize("field", ["model", "model_id"])
async def test_model_and_model_id_are_one_field(client: httpx2.AsyncClient, field: str) -> None:
    for body in (ANALYSIS, COMPLETION):
        response = await client.post("/generate", json={**body, field: "TINY"})
        assert response.json()["resolved_model"] == TEXT
        response = await client.post("/generate", json={**body, "model": "tiny", "model_id": "other"})
        assert (response.status_code, response.json()["code"]) == (422, "validation_error")


async def test_a_prompt_becomes_a_chat_with_the_system_text_in_front(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", json={"prompt": "Hi", "system": "Be brief."})
    asked = world.repository.text(TEXT).requests[-1]
    assert asked.prompt == Chat((Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Hi")))


async def test_raw_text_and_token_ids_reach_the_model_as_they_are(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json={"prompt": "<|im_start|>", "raw": True})
    assert world.repository.text(TEXT).requests[-1].prompt == RawText("<|im_start|>")
    assert "context" not in response.json()
    await client.post("/generate", json={"prompt": "and then?", "context": [5, 6]})
    then = Chat((Message(Role.USER, "and then?"),))
    assert world.repository.text(TEXT).requests[-1].prompt == Continuation((5, 6), then)


async def test_messages_reach_the_model_in_order(world: World, client: httpx2.AsyncClient) -> None:
    messages = [
        {"role": "User", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    await client.post("/generate", json={"messages": messages, "system": "s"})
    prompt = world.repository.text(TEXT).requests[-1].prompt
    assert isinstance(prompt, Chat)
    assert [(message.role, message.content) for message in prompt.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]


async def test_a_completion_has_the_defaults_of_ollama(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", json=COMPLETION)
    sampling = world.repository.text(TEXT).requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (0.8, 40, 0.9, 1.0)
    assert (sampling.max_tokens, sampling.seed, sampling.stop) == (None, None, ())


async def test_a_field_of_the_body_outranks_its_namesake_in_options(world: World, client: httpx2.AsyncClient) -> None:
    options = {"temperature": 0.1, "top_k": 7, "seed": 1, "stop": ["x"], "num_predict": 3, "repeat_penalty": 1.5}
    await client.post("/generate", json={**COMPLETION, "options": options})
    sampling = world.repository.text(TEXT).requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.stop) == (0.1, 7, 1, ("x",))
    assert (sampling.max_tokens, sampling.repetition_penalty) == (3, 1.5)
    body = {"temperature": 0.2, "top_k": 8, "seed": -1, "stop": "y", "max_tokens": 4, "options": options}
    await client.post("/generate", json={**COMPLETION, **body})
    sampling = world.repository.text(TEXT).requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.stop) == (0.2, 8, None, ("y",))
    assert sampling.max_tokens == 4


async def test_a_bias_of_tokens_reaches_the_model(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", json={**COMPLETION, "logit_bias": {"5": -100, "7": 0, "900": 2.5}})
    assert world.repository.text(TEXT).requests[-1].sampling.logit_bias == ((5, -100.0), (900, 2.5))


async def test_max_length_is_read_as_max_tokens(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json={"prompt": "one two three", "max_length": 2})
    assert (response.json()["response"], response.json()["done_reason"]) == ("one two", "length")
    response = await client.post("/generate", json={**COMPLETION, "max_length": 2, "max_tokens": 3})
    assert response.status_code == 422


@pytest.mark.parametrize("wish", [-1, -2])
async def test_num_predict_without_limit_is_no_wish(world: World, client: httpx2.AsyncClient, wish: int) -> None:
    await client.post("/generate", json={**COMPLETION, "options": {"num_predict": wish}})
    assert world.repository.text(TEXT).requests[-1].sampling.max_tokens is None


async def test_num_ctx_limits_this_request_and_loads_nothing_anew(world: World, client: httpx2.AsyncClient) -> None:
    prompt = {"prompt": "one two three four"}
    response = await client.post("/generate", json={**prompt, "options": {"num_ctx": 6}})
    assert (response.json()["response"], response.json()["done_reason"]) == ("one two", "length")
    response = await client.post("/generate", json={**prompt, "options": {"num_ctx": 4}})
    assert (response.status_code, response.json()["code"]) == (400, "context_length_exceeded")
    response = await client.post("/generate", json={**prompt, "options": {"num_ctx": 10**9}})
    assert response.json()["done_reason"] == "stop"
    assert world.repository.count_loads(TEXT) == 1


async def test_a_model_alone_is_loaded_and_with_keep_alive_0_let_go(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json={"model": "tiny"})
    assert response.json()["done_reason"] == "load"
    assert response.json()["model"] == "tiny"
    assert world.repository.in_memory == {TEXT}
    response = await client.post("/generate", json={"model": "tiny", "keep_alive": 0})
    assert response.json()["done_reason"] == "unload"
    assert world.repository.in_memory == set()
    response = await client.post("/generate", json={"model": "tiny", "keep_alive": "0s"})
    assert response.json()["done_reason"] == "unload"
    assert world.repository.count_loads(TEXT) == 1


async def test_background_answers_are_not_offered_where_no_jobs_are_kept(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json=ANALYSIS, headers={"prefer": "respond-async"})
    assert (response.status_code, response.json()["code"]) == (501, "not_implemented")
