"""What /v1/chat/completions refuses, and in which shape."""

from typing import Any

import httpx2
import pytest

from domain.errors import ModelLoadFailed, Overloaded
from tests.api.world import TEXT, World

URL = "/v1/chat/completions"
USER = {"role": "user", "content": "one two"}


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": "x", **fields}]}


def error_of(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["openai-processing-ms"]) >= 0
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 1025}, "messages"),
        ({"messages": ["hello"]}, "messages.0"),
        ({"messages": [USER, {"role": "robot", "content": "x"}]}, "messages.1.role"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 65}]}, "messages.0.content"),
        (part(type="text"), "messages.0.content.0.text"),
        (part(text="no type"), "messages.0.content.0"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x" * 257]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": {}}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": []}, "keep_alive"),
        ({"options": {"num_ctx": -1}}, "options.num_ctx"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
    ],
)
async def test_a_wrong_value_is_400_and_names_its_field(
    client: httpx2.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    error = error_of(await client.post(URL, json={"model": TEXT, "messages": [USER], **changes}))
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_value", param)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"audio": {"voice": "a", "format": "wav"}}, "unsupported_parameter", "audio"),
        ({"web_search_options": {}}, "unsupported_parameter", "web_search_options"),
        ({"chat_template": "{{ x }}"}, "unsupported_parameter", "chat_template"),
        ({"prompt_embeds": "AA=="}, "unsupported_parameter", "prompt_embeds"),
        (message(audio={"id": "a"}), "unsupported_parameter", "messages.1.audio"),
        (part(type="file", file={"file_id": "f"}), "unsupported_value", "messages.0.content.0.type"),
        (part(type="image_url", image_url={"url": "http://x/y.png"}), "unsupported_value", None),
        (part(type="image_url", image_url={"url": "data:image/png;base64,AA=="}), "unsupported_capability", None),
        (part(type="input_audio", input_audio={"data": "AA==", "format": "wav"}), "unsupported_capability", None),
    ],
)
async def test_what_would_change_the_answer_and_is_not_offered_is_refused(
    client: httpx2.AsyncClient, changes: dict[str, Any], code: str, param: str | None
) -> None:
    error = error_of(await client.post(URL, json={"model": TEXT, "messages": [USER], **changes}))
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"] == param if param else error["param"].startswith("messages.0.content.0.")


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "missing_body"),
        (b"{", {}, 400, "invalid_json"),
        (b'{"model": NaN}', {}, 400, "invalid_json"),
        (b"[]", {}, 400, "invalid_value"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b" " * (5 << 20), {}, 413, "payload_too_large"),
        (b"{}", {"origin": "http://evil.example"}, 403, "origin_not_allowed"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_in_the_same_shape(
    client: httpx2.AsyncClient, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = await client.post(URL, content=content, headers=headers)
    assert error_of(response, status)["code"] == code


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", ""])
async def test_json_may_be_called_so_or_not_at_all(client: httpx2.AsyncClient, content_type: str) -> None:
    content = b'{"model": "tiny:1b", "messages": [{"role": "user", "content": "hi"}]}'
    response = await client.post(URL, content=content, headers={"content-type": content_type} if content_type else {})
    assert response.status_code == 200, response.text


async def test_another_method_is_405_in_the_same_shape(client: httpx2.AsyncClient) -> None:
    response = await client.get(URL)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


async def test_a_full_queue_says_when_to_come_back(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.error = Overloaded(retry_after_seconds=3)
    response = await client.post(URL, json={"model": TEXT, "messages": [USER]})
    error = error_of(response, 503)
    assert (error["type"], error["code"]) == ("server_error", "server_overloaded")
    assert response.headers["x-should-retry"] == "true"
    assert 3 <= int(response.headers["retry-after"]) <= 120
    assert int(response.headers["retry-after-ms"]) == 1000 * int(response.headers["retry-after"])


async def test_a_failed_load_need_not_be_tried_again(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).load_failures.append(ModelLoadFailed("it is damaged"))
    response = await client.post(URL, json={"model": TEXT, "messages": [USER]})
    assert error_of(response, 500)["code"] == "model_load_failed"
    assert response.headers["x-should-retry"] == "false"


async def test_a_bug_says_nothing_of_itself(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.error = RuntimeError("canary")
    response = await client.post(URL, json={"model": TEXT, "messages": [USER]})
    assert error_of(response, 500)["code"] == "internal_error"
    assert "canary" not in response.text
