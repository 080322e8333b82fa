"""POST /v1/chat/completions: the body, the answer in one piece, and the stream, rule by rule."""

from typing import Any

import httpx2
import orjson
import pytest

from domain.errors import GenerationFailed
from domain.prompt import Chat, Message, Role
from tests.api.openai.frames import chunks_of, data_of, deltas_of, text_of
from tests.api.test_disconnects import closing_one
from tests.api.world import EMBEDDING, SPEECH, TEXT, Served, World, serving

URL = "/v1/chat/completions"
USER = {"role": "user", "content": "one two three"}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": TEXT, "messages": [USER], **changes}


# -- in one piece ---------------------------------------------------------------------------------------


async def test_an_answer_has_every_key_of_the_format(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.cached_tokens = ["Olá", ", ", "mundo 🦜"], 2
    response = await client.post(URL, json=body(model="qwen-model_full"))
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert response.headers["x-request-id"]
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") >= 1_800_000_000
    assert answer.pop("system_fingerprint").startswith("fp_ingle_")
    assert answer == {
        "object": "chat.completion",
        "model": "qwen-model_full",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Olá, mundo 🦜", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


async def test_the_fingerprint_stays_and_changes_with_what_decides_the_text(
    world: World, client: httpx2.AsyncClient
) -> None:
    first = (await client.post(URL, json=body())).json()
    again = (await client.post(URL, json=body(seed=4))).json()
    assert first["system_fingerprint"] == again["system_fingerprint"]
    assert first["id"] != again["id"]
    async with serving(world.app(version="0.2.0")) as other:
        newer = (await other.client.post(URL, json=body())).json()
    assert newer["system_fingerprint"] != first["system_fingerprint"]


async def test_roles_and_parts_become_the_prompt(world: World, client: httpx2.AsyncClient) -> None:
    messages = [
        {"role": "developer", "content": "be brief", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]},
        {"role": "assistant", "content": None, "refusal": "no", "tool_calls": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        {"role": "system", "content": ""},
        {"role": "user", "content": "c"},
    ]
    response = await client.post(URL, json=body(messages=messages))
    assert response.status_code == 200, response.text
    assert world.repository.text(TEXT).requests[0].prompt == Chat(
        (
            Message(Role.SYSTEM, "be brief"),
            Message(Role.USER, "a b"),
            Message(Role.ASSISTANT, "no"),
            Message(Role.ASSISTANT, "never"),
            Message(Role.TOOL, "42", tool_call_id="call_1"),
            Message(Role.SYSTEM, ""),
            Message(Role.USER, "c"),
        )
    )


async def test_fields_become_sampling_params(world: World, client: httpx2.AsyncClient) -> None:
    fields = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "seed": -1,
        "ignore_eos": True,
    }
    await client.post(URL, json=body(**fields, max_tokens=5, max_completion_tokens=2, stop=["x", "y"], keep_alive="9m"))
    request = world.repository.text(TEXT).requests[0]
    assert {name: getattr(request.sampling, name) for name in fields} == fields
    assert (request.sampling.max_tokens, request.sampling.stop) == (2, ("x", "y"))
    assert request.timeout_seconds == 600
    (resident,) = world.pool.residents()
    assert resident.expires_at is not None
    assert resident.expires_at - resident.last_used_at == pytest.approx(540)


async def test_what_is_left_out_or_null_is_neutral(world: World, client: httpx2.AsyncClient) -> None:
    names = (
        "temperature",
        "top_p",
        "stop",
        "seed",
        "n",
        "tools",
        "logprobs",
        "response_format",
        "stream",
        "keep_alive",
    )
    await client.post(URL, json=body(**dict.fromkeys(names)))
    sampling = world.repository.text(TEXT).requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (1.0, 1.0, 0, None)
    assert (sampling.max_tokens, sampling.stop, sampling.repetition_penalty) == (None, (), 1.0)


async def test_advisory_and_unknown_fields_change_nothing(client: httpx2.AsyncClient) -> None:
    advisory = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "flex",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "modalities": ["text"],
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "tool_choice": "none",
        "tools": [],
        "response_format": {"type": "text"},
        "n": 1,
        "logprobs": False,
        "logit_bias": {},
        "nonsense": {"a": [1]},
    }
    response = await client.post(URL, json=body(**advisory))
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "one two three"


@pytest.mark.parametrize(("limit", "text", "reason"), [(2, "one two", "length"), (0, "", "length"), (3, None, "stop")])
async def test_the_limit_of_tokens_ends_an_answer(
    client: httpx2.AsyncClient, limit: int, text: str | None, reason: str
) -> None:
    answer = (await client.post(URL, json=body(max_completion_tokens=limit))).json()
    assert answer["choices"][0]["message"]["content"] == (USER["content"] if text is None else text)
    assert answer["choices"][0]["finish_reason"] == reason
    assert answer["usage"]["completion_tokens"] == limit


async def test_a_stop_string_is_not_part_of_the_answer(client: httpx2.AsyncClient) -> None:
    choice = (await client.post(URL, json=body(stop=" two"))).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one", "stop")


async def test_num_ctx_bounds_the_context_of_one_request(client: httpx2.AsyncClient) -> None:
    choice = (await client.post(URL, json=body(options={"num_ctx": 5}))).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")
    error = (await client.post(URL, json=body(options={"num_ctx": 3}))).json()["error"]
    assert error["code"] == "context_length_exceeded"


# -- as a stream ----------------------------------------------------------------------------------------


async def test_a_stream_is_role_content_finish_and_done(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.chunks = ["Olá", ",\n\n", "data: [DONE]\n\n", " 🦜"]
    response = await client.post(URL, json=body(stream=True))
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")
    assert "openai-processing-ms" in response.headers
    chunks = chunks_of(response)
    assert deltas_of(chunks) == [
        {"role": "assistant", "content": ""},
        {"content": "Olá"},
        {"content": ",\n\n"},
        {"content": "data: [DONE]\n\n"},
        {"content": " 🦜"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]
    assert {chunk["choices"][0]["logprobs"] for chunk in chunks} == {None}
    for name in ("id", "created", "model", "system_fingerprint", "object"):
        assert len({chunk[name] for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["model"] == TEXT
    assert all("usage" not in chunk for chunk in chunks)


async def test_the_usage_is_a_last_chunk_without_choices(client: httpx2.AsyncClient) -> None:
    whole = (await client.post(URL, json=body())).json()
    response = await client.post(URL, json=body(stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks_of(response)
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert last["id"] == chunks[0]["id"]


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 2}, {"max_tokens": 0}, {"stop": "three"}, {"stop": "one"}])
async def test_a_stream_joins_to_the_answer_in_one_piece(client: httpx2.AsyncClient, changes: dict[str, Any]) -> None:
    (choice,) = (await client.post(URL, json=body(seed=3, **changes))).json()["choices"]
    chunks = chunks_of(await client.post(URL, json=body(seed=3, stream=True, **changes)))
    assert text_of(chunks) == choice["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400, "context_length_exceeded"),
        ({"model": SPEECH}, 400, "unsupported_capability"),
        ({"model": EMBEDDING}, 400, "unsupported_capability"),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_what_fails_before_the_first_chunk_has_its_real_status(
    client: httpx2.AsyncClient, changes: dict[str, Any], status: int, code: str, is_stream: bool
) -> None:
    response = await client.post(URL, json=body(stream=is_stream, **changes))
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_an_error_in_a_stream_is_its_last_frame(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.error, script.error_after = ["one", " two"], GenerationFailed("at '/srv/x/y.bin'"), 1
    response = await client.post(URL, json=body(stream=True))
    assert response.status_code == 200
    *chunks, last = [orjson.loads(data) for data in data_of(response)]
    assert text_of(chunks) == "one"
    assert last == {
        "error": {"message": "at 'y.bin'", "type": "server_error", "param": None, "code": "generation_failed"}
    }


async def test_a_client_that_leaves_a_stream_frees_its_place(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    async with (
        closing_one(world, TEXT),
        server.client.stream("POST", URL, json=body(stream=True)) as response,
    ):
        lines = response.aiter_lines()
        while '"content":"one"' not in await anext(lines):
            pass
        await gate.arrived()
