"""What bad input gets: a 4xx with a code, in the native shape, and a server that lives on."""

import math
from typing import Any

import httpx2
import pytest

from domain.errors import GenerationFailed
from tests.api.problems import refused
from tests.api.world import EMBEDDING, SPEECH, TEXT, World, in_process

CANARY = "canary-7f3c"


async def test_an_unknown_model_is_404_with_the_nearest_names(client: httpx2.AsyncClient) -> None:
    for path, body in (
        ("/generate", {"prompt": "a", "model": "tiny:1"}),
        ("/generate", {"query": "a", "model_id": "tiny:1"}),
        ("/generate", {"model": "tiny:1"}),
        ("/generate", {"model": "tiny:1", "keep_alive": 0}),
        ("/generate", {"prompt": "a", "model": "tiny:1", "stream": True}),
        ("/load-model", {"model_id": "tiny:1"}),
        ("/load-model", {"model_id": "tiny:1", "stream": True}),
        ("/unload-model", {"model_id": "tiny:1"}),
    ):
        problem = refused(await client.post(path, json=body), 404, "model_not_found")
        assert problem["nearest"] == [TEXT]
        assert "'tiny:1' not found" in problem["detail"]
        assert TEXT in problem["detail"]
    assert refused(await client.get("/models/tiny:1"), 404, "model_not_found")["nearest"] == [TEXT]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../x", "https://evil.example/x", "x" * 10_000, "a\x00b", "", "📀", "hf.co/a/b:c"]
)
async def test_a_name_that_is_a_path_or_worse_is_just_unknown(client: httpx2.AsyncClient, name: str) -> None:
    response = await client.post("/generate", json={"prompt": "a", "model": name})
    assert len(refused(response, 404, "model_not_found")["detail"]) <= 1000


@pytest.mark.parametrize("device", ["tpu", "cuda", "cuda:0", "cuda:7", "cpu:1", "", "CUDA", "x" * 10_000])
async def test_a_device_that_is_not_there_is_422_naming_those_that_are(client: httpx2.AsyncClient, device: str) -> None:
    response = await client.post("/load-model", json={"device": device})
    if device == "":
        assert response.status_code == 200
        return
    problem = refused(response, 422, "device_not_available")
    assert "cpu" in problem["available"]
    assert "cpu" in problem["detail"]


async def test_another_task_than_the_models_own_is_422(client: httpx2.AsyncClient) -> None:
    for model in (SPEECH, EMBEDDING):
        for body in ({"prompt": "a"}, {}, {"keep_alive": 0}, {"prompt": "a", "stream": True}):
            response = await client.post("/generate", json={**body, "model": model})
            refused(response, 422, "unsupported_capability")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "", "model": TEXT}, "prompt"),
        ({"messages": []}, "messages"),
        ({"query": ""}, "query"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_length": -5}, "max_length"),
        ({"prompt": "a", "options": {"num_predict": -3}}, "options.num_predict"),
        ({"query": "a", "max_length": -1}, "max_length"),
        ({"query": "a", "max_length": 0}, "max_length"),
        ({"query": "a", "max_length": 2049}, "max_length"),
        ({"prompt": "a", "temperature": -0.1}, "temperature"),
        ({"prompt": "a", "temperature": 2.1}, "temperature"),
        ({"query": "a", "temperature": 1e300}, "temperature"),
        ({"prompt": "a", "options": {"temperature": 3}}, "options.temperature"),
        ({"prompt": "a", "options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
        ({"prompt": "a", "options": {"min_p": 1.5}}, "options.min_p"),
        ({"prompt": "a", "top_p": -1}, "top_p"),
        ({"prompt": "a", "top_k": -1}, "top_k"),
        ({"prompt": "a", "seed": 2**63}, "seed"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": "x" * 257}, "stop"),
        ({"prompt": "a", "timeout": 0}, "timeout"),
        ({"prompt": "a", "timeout": -1}, "timeout"),
        ({"prompt": "a", "priority": 11}, "priority"),
        ({"prompt": "a", "keep_alive": "10"}, "keep_alive"),
        ({"prompt": "a", "keep_alive": "soon"}, "keep_alive"),
        ({"prompt": "a", "raw": True, "system": "b"}, "raw"),
        ({"messages": [{"role": "", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "w" * 65, "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "a"}], "prompt": "b"}, "prompt"),
        ({"messages": [{"role": "system", "content": "a"}], "system": "b"}, "system"),
    ],
)
async def test_a_value_out_of_range_is_422_naming_the_field(
    client: httpx2.AsyncClient, body: dict[str, Any], field: str
) -> None:
    problem = refused(await client.post("/generate", json=body), 422, "validation_error")
    assert problem["errors"][0]["loc"] == [
        "body",
        *(int(part) if part.isdigit() else part for part in field.split(".")),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": 5},
        {"prompt": ["a"]},
        {"prompt": "a", "max_tokens": True},
        {"prompt": "a", "max_tokens": "5"},
        {"prompt": "a", "max_tokens": 5.0},
        {"prompt": "a", "temperature": "0.5"},
        {"prompt": "a", "temperature": True},
        {"prompt": "a", "stream": "true"},
        {"prompt": "a", "stream": 1},
        {"prompt": "a", "seed": 1.5},
        {"prompt": "a", "stop": [1]},
        {"prompt": "a", "stop": {"a": 1}},
        {"prompt": "a", "options": []},
        {"prompt": "a", "options": {"num_ctx": "4096"}},
        {"prompt": "a", "options": {"num_ctx": True}},
        {"prompt": "a", "options": {"use_mmap": 1}},
        {"prompt": "a", "options": {"stop": 5}},
        {"prompt": "a", "context": [1.5]},
        {"prompt": "a", "context": [-1]},
        {"prompt": "a", "context": [2**40]},
        {"prompt": "a", "context": "1,2"},
        {"prompt": "a", "keep_alive": [5]},
        {"prompt": "a", "keep_alive": True},
        {"model": 7},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"query": {"a": 1}},
        {"query": "a", "context": "one passage"},
        {"query": "a", "context": [1]},
        {"query": "a", "context": ["a"] * 65},
        {"query": "a", "max_length": True},
        {"query": "a", "truncate": "yes"},
        {"messages": [{"role": "user", "content": "a"}] * 1025},
        {"prompt": "a", "stop": ["a"] * 17},
    ],
)
async def test_a_wrong_json_type_is_422(client: httpx2.AsyncClient, wrong: dict[str, Any]) -> None:
    refused(await client.post("/generate", json=wrong), 422, "validation_error")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null", b"true"])
async def test_a_body_that_is_no_object_is_422(client: httpx2.AsyncClient, body: bytes) -> None:
    refused(await client.post("/generate", content=body), 422, "validation_error")


async def test_an_option_of_the_wrong_type_is_named_as_ollama_names_it(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json={"prompt": "a", "options": {"num_ctx": "x", "top_p": "y"}})
    assert [error["msg"] for error in response.json()["errors"]] == [
        'option "num_ctx" must be of type integer',
        'option "top_p" must be of type float32',
    ]


BEYOND_THE_MODEL: list[dict[str, Any]] = [
    {"suffix": "b"},
    {"images": ["aGk="]},
    {"think": True},
    {"think": "high"},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
]


@pytest.mark.parametrize("field", BEYOND_THE_MODEL)
async def test_what_the_model_cannot_do_is_refused_by_name(client: httpx2.AsyncClient, field: dict[str, Any]) -> None:
    problem = refused(await client.post("/generate", json={"prompt": "a", **field}), 422, "unsupported_capability")
    assert problem["errors"][0]["loc"] == ["body", next(iter(field))]
    assert "does not support" in problem["detail"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"format": "yaml"}, "format"),
    ({"format": {"type": "object", "title": "b" * 70_000}}, "format"),
    ({"think": 3}, "think"),
    ({"template": "{{ range .Messages }}"}, "template"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"raw": True, "template": "{{ .Prompt }}"}, "raw"),
    ({"template": "{{ .Prompt }}", "context": [1]}, "context"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
    ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
    ({"options": {"typical_p": 2.0}}, "options.typical_p"),
]


@pytest.mark.parametrize(("field", "name"), WRONG)
async def test_a_wish_that_cannot_be_understood_is_refused(
    client: httpx2.AsyncClient, field: dict[str, Any], name: str
) -> None:
    problem = refused(await client.post("/generate", json={"prompt": "a", **field}), 422, "validation_error")
    assert problem["errors"][0]["loc"] == ["body", *name.split(".")]


@pytest.mark.parametrize("field", ["options", "max_tokens", "suffix", "images", "tools", "raw", "format", "think"])
async def test_the_analysis_form_refuses_the_other_forms_fields(client: httpx2.AsyncClient, field: str) -> None:
    values = {"options": {"top_k": 1}, "max_tokens": 5, "tools": [1], "images": ["x"], "raw": True, "think": True}
    body = {"query": "a", field: values.get(field, "x")}
    refused(await client.post("/generate", json=body), 422, "unsupported_parameter")


async def test_what_changes_nothing_is_accepted(client: httpx2.AsyncClient) -> None:
    neutral = {
        "suffix": "",
        "images": [],
        "format": "",
        "think": False,
        "template": "",
        "logprobs": False,
        "top_logprobs": 0,
        "tools": [],
        "tool_choice": "auto",
        "truncate": False,
        "shift": False,
        "width": 5,
        "trust_remote_code": True,
        "cache_dir": "/x",
        "use_async": "whatever",
        "system": None,
        "options": {"typical_p": 1.0, "num_thread": 10**6, "num_gpu": 1, "mirostat": "?", "unknown": {}},
    }
    response = await client.post("/generate", json={"prompt": "a", **neutral})
    assert response.status_code == 200
    response = await client.post("/generate", json={"prompt": "a", **dict.fromkeys(neutral)})
    assert response.status_code == 200


async def test_a_refusal_does_not_repeat_what_was_wrong(client: httpx2.AsyncClient) -> None:
    for body in (
        {"prompt": {"x": CANARY}},
        {"prompt": "a", "seed": CANARY},
        {"prompt": "a", "options": {"seed": CANARY}},
        {"messages": [{"role": CANARY * 9, "content": CANARY}]},
        {"query": [CANARY]},
        {"prompt": "a", "format": CANARY},
    ):
        response = await client.post("/generate", json=body)
        assert response.status_code == 422
        assert CANARY not in response.text
    response = await client.post("/generate", content=b'{"prompt": "' + CANARY.encode())
    assert CANARY not in response.text


async def test_the_header_for_the_time_limit_is_checked(client: httpx2.AsyncClient) -> None:
    for value in ("soon", "nan", "inf", "-1", "0", ""):
        response = await client.post("/generate", json={"prompt": "a"}, headers={"x-request-timeout": value})
        refused(response, 422, "validation_error")


async def test_a_bug_is_500_and_says_nothing_but_the_request_id(world: World) -> None:
    world.repository.script(TEXT).text.error = RuntimeError(f"{CANARY} in /home/somebody/secret.bin")
    async with in_process(world.app()) as client:
        for body in ({"prompt": "a"}, {"query": "a"}, {"prompt": "a", "stream": True}):
            response = await client.post("/generate", json=body)
            problem = refused(response, 500, "internal_error")
            assert CANARY not in response.text
            assert "/" not in problem["detail"]
            assert response.headers["x-should-retry"] == "false"


async def test_a_failure_of_the_engine_names_no_directory(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.error = GenerationFailed("mmap of '/srv/models/tiny/weights.gguf' failed")
    problem = refused(await client.post("/generate", json={"prompt": "a"}), 500, "generation_failed")
    assert problem["detail"] == "mmap of 'weights.gguf' failed"


async def test_the_server_lives_on_after_all_that(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", content=b"[" * 100_000)
    world.repository.script(TEXT).text.error = RuntimeError("boom")
    await client.post("/generate", json={"prompt": "a"})
    world.repository.script(TEXT).text.error = None
    assert (await client.post("/generate", json={"prompt": "a"})).status_code == 200
    assert math.isclose((await client.get("/health")).json()["loaded_models_count"], 1)
