"""POST /api/generate: which prompt each body makes, and what its records say."""

import re
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from domain.constraint import JsonSchema
from domain.generation import WHOLE_PROMPT, GenerationRequest
from domain.model import WeightFormat
from domain.preset import Preset
from domain.prompt import Chat, Continuation, FillInMiddle, Message, RawText, Role
from tests.api.ollama.asking import PRESET, SKILLED, TOOL, install, lines_of, refused, spec, whole
from tests.api.world import SPEECH, TEXT, World

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


async def asked(world: World, client: httpx2.AsyncClient, **body: Any) -> GenerationRequest:
    """What the model was given for a body."""
    response = await client.post("/api/generate", json={"model": TEXT, "stream": False, **body})
    assert response.status_code == 200, response.text
    return world.repository.text(body.get("model", TEXT)).requests[-1]


async def test_a_stream_is_the_default_and_ends_with_the_figures(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.cached_tokens = 1
    *pieces, last = lines_of(await client.post("/api/generate", json={"model": TEXT, "prompt": "one two three"}))
    assert [piece["response"] for piece in pieces] == ["one", " two", " three"]
    assert all(set(piece) == {"model", "created_at", "response", "done"} and not piece["done"] for piece in pieces)
    assert all(DATE.fullmatch(record["created_at"]) for record in [*pieces, last])
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")
    assert (last["prompt_eval_count"], last["prompt_eval_cached_count"], last["eval_count"]) == (3, 1, 3)
    assert all(isinstance(last[f"{name}_duration"], int) for name in ("total", "load", "prompt_eval", "eval"))
    assert len(last["context"]) == 6


async def test_the_answer_in_one_piece_is_the_joined_stream(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": "one two three"}
    records = lines_of(await client.post("/api/generate", json=body))
    answer = whole(await client.post("/api/generate", json={**body, "stream": False}))
    assert answer["response"] == "".join(record["response"] for record in records)
    assert set(answer) == set(records[-1])


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_the_body_is_json_whatever_its_content_type(client: httpx2.AsyncClient, content_type: str) -> None:
    response = await client.post(
        "/api/generate",
        content=b'{"model": "tiny:1b", "prompt": "a", "stream": false}',
        headers={"content-type": content_type},
    )
    assert whole(response)["response"] == "a"


async def test_the_prompt_is_a_chat_of_one_turn(world: World, client: httpx2.AsyncClient) -> None:
    request = await asked(world, client, prompt="hi", system="be kind")
    assert request.prompt == Chat((Message(Role.SYSTEM, "be kind"), Message(Role.USER, "hi")))


async def test_raw_text_goes_as_it_is_and_has_no_context(world: World, client: httpx2.AsyncClient) -> None:
    request = await asked(world, client, prompt="<|x|> hi", raw=True)
    assert request.prompt == RawText("<|x|> hi")
    answer = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "raw": True, "stream": False})
    assert "context" not in whole(answer)


@pytest.mark.parametrize("field", [{"template": "{{ .Prompt }}"}, {"system": "b"}, {"context": [1]}])
async def test_raw_excludes_template_system_and_context(client: httpx2.AsyncClient, field: dict[str, Any]) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "raw": True, **field})
    refused(response, 400, "raw mode does not support template, system, or context")


async def test_a_context_is_put_before_the_prompt(world: World, client: httpx2.AsyncClient) -> None:
    first = whole(await client.post("/api/generate", json={"model": TEXT, "prompt": "a b", "stream": False}))
    request = await asked(world, client, prompt="c", context=first["context"])
    assert request.prompt == Continuation(tuple(first["context"]), Chat((Message(Role.USER, "c"),)))
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "c", "context": [2**30]})
    assert response.status_code == 400


async def test_a_suffix_makes_a_hole_to_fill(world: World, client: httpx2.AsyncClient) -> None:
    install(world, spec(SKILLED, "insert"))
    request = await asked(world, client, model=SKILLED, prompt="def f():", suffix="return x")
    assert request.prompt == FillInMiddle("def f():", "return x")
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "suffix": "b"})
    refused(response, 400, f"{TEXT} does not support insert")
    response = await client.post("/api/generate", json={"model": SKILLED, "prompt": "a", "suffix": "b", "system": "c"})
    refused(response, 400, "system does not go with suffix")


async def test_a_template_of_plain_places_is_filled(world: World, client: httpx2.AsyncClient) -> None:
    template = "[S]{{ .System }}[U]{{ .Prompt }}[A]{{ .Response }}[END]"
    request = await asked(world, client, prompt="hi {{ .System }}", system="be kind", template=template)
    assert request.prompt == RawText("[S]be kind[U]hi {{ .System }}[A]")


@pytest.mark.parametrize(
    "template", ["{{ range .Messages }}{{ end }}", "{{ if .System }}{{ .Prompt }}{{ end }}", "{{- .Prompt }}", "text"]
)
async def test_another_template_is_not_supported(client: httpx2.AsyncClient, template: str) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "template": template})
    refused(response, 400, "template not supported")


async def test_a_format_is_enforced(world: World, client: httpx2.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert (await asked(world, client, prompt="a", format="json")).constraint == JsonSchema('{"type":"object"}')
    constraint = (await asked(world, client, prompt="a", format=schema)).constraint
    assert isinstance(constraint, JsonSchema)
    assert (await asked(world, client, prompt="a", format="")).constraint is None
    for wrong in ("yaml", 5, [1]):
        response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "format": wrong})
        refused(response, 400, 'invalid format: expected "json" or a valid JSON Schema object')


@pytest.mark.parametrize(
    ("think", "wanted", "effort"),
    [
        (None, True, ""),
        (True, True, ""),
        (False, False, ""),
        ("none", False, ""),
        ("high", True, "high"),
        ("yes", True, ""),
    ],
)
async def test_a_model_that_thinks_does_unless_told_otherwise(
    world: World, client: httpx2.AsyncClient, think: bool | str | None, wanted: bool, effort: str
) -> None:
    install(world, spec(SKILLED, "thinking"))
    prompt = (await asked(world, client, model=SKILLED, prompt="a", think=think)).prompt
    assert isinstance(prompt, Chat)
    assert (prompt.think, prompt.reasoning_effort) == (wanted, effort)


async def test_thinking_stands_beside_the_response(world: World, client: httpx2.AsyncClient) -> None:
    install(world, spec(SKILLED, "thinking"))
    script = world.repository.script(SKILLED).text
    script.thinking, script.chunks = "let me see", ["fo", "ur"]
    first, *_, last = lines_of(await client.post("/api/generate", json={"model": SKILLED, "prompt": "2+2"}))
    assert (first["thinking"], first["response"]) == ("let me see", "")
    assert "thinking" not in last
    answer = whole(await client.post("/api/generate", json={"model": SKILLED, "prompt": "2+2", "stream": False}))
    assert (answer["thinking"], answer["response"]) == ("let me see", "four")


async def test_thinking_on_a_model_that_does_not_is_refused(client: httpx2.AsyncClient) -> None:
    for think in (True, "low"):
        response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "think": think})
        refused(response, 400, f'"{TEXT}" does not support thinking')
    answer = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "think": False, "stream": False})
    assert whole(answer)["response"] == "a"
    assert (await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "think": 5})).status_code == 400


async def test_images_need_a_model_that_sees(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "images": ["aGk="]})
    refused(response, 400, f"{TEXT} does not support vision")


async def test_logprobs_are_told_with_their_tokens(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": "é b", "logprobs": True, "top_logprobs": 2}
    records = lines_of(await client.post("/api/generate", json=body))
    token = records[0]["logprobs"][0]
    assert (token["token"], token["logprob"], token["bytes"]) == ("é", 0.0, [195, 169])
    assert len(token["top_logprobs"]) == 2
    assert set(token["top_logprobs"][0]) == {"token", "logprob", "bytes"}
    answer = whole(await client.post("/api/generate", json={**body, "stream": False}))
    assert answer["logprobs"] == [token for record in records for token in record.get("logprobs", [])]
    plain = whole(await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "stream": False}))
    assert "logprobs" not in plain


@pytest.mark.parametrize("top", [-1, 21])
async def test_top_logprobs_out_of_range_are_refused(client: httpx2.AsyncClient, top: int) -> None:
    response = await client.post(
        "/api/generate", json={"model": TEXT, "prompt": "a", "logprobs": True, "top_logprobs": top}
    )
    refused(response, 400, "top_logprobs must be between 0 and 20")


async def test_the_prompt_can_be_seen_without_an_answer(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a b", "_debug_render_only": True})
    answer = whole(response)
    assert set(answer) == {"model", "created_at", "_debug_info"}
    assert answer["_debug_info"]["image_count"] == 0
    assert len(answer["_debug_info"]["rendered_template"].split()) == 2
    assert world.repository.text(TEXT).requests == []


async def test_the_models_own_settings_stand_in_for_what_a_request_leaves_open(
    world: World, client: httpx2.AsyncClient
) -> None:
    opening = (Message(Role.USER, "hello"), Message(Role.ASSISTANT, "good day"))
    preset = Preset("be polite", (("num_predict", 7), ("stop", ("x", "y")), ("temperature", 0.1)), opening)
    install(world, spec(PRESET, preset=preset))
    request = await asked(world, client, model=PRESET, prompt="hi", options={"temperature": 0.3})
    assert request.prompt == Chat((Message(Role.SYSTEM, "be polite"), *opening, Message(Role.USER, "hi")))
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0.3, 7, ("x", "y"))
    assert (sampling.top_k, sampling.top_p) == (40, 0.9)
    bare = await asked(world, client, model=PRESET, prompt="hi", system="")
    assert bare.prompt == Chat((Message(Role.SYSTEM, ""), *opening, Message(Role.USER, "hi")))


async def test_options_are_taken_over_with_ollamas_defaults(world: World, client: httpx2.AsyncClient) -> None:
    plain = await asked(world, client, prompt="a")
    assert (plain.sampling.temperature, plain.sampling.max_tokens, plain.sampling.seed) == (0.8, None, None)
    assert (plain.num_ctx, plain.shift_keeping) == (0, 4)
    given = {
        "num_predict": 5,
        "typical_p": 0.5,
        "repeat_penalty": 1.2,
        "repeat_last_n": -1,
        "seed": 7,
        "stop": "END",
        "num_ctx": 100,
        "num_keep": 2,
        "num_gpu": 1,
        "mirostat": "?",
        "unheard_of": 1,
    }
    request = await asked(world, client, prompt="a", options=given, shift=False)
    sampling = request.sampling
    assert (sampling.typical_p, sampling.repetition_penalty, sampling.repeat_last_n) == (0.5, 1.2, -1)
    assert (sampling.max_tokens, sampling.seed, sampling.stop) == (5, 7, ("END",))
    assert (request.num_ctx, request.shift_keeping) == (100, None)
    for below_nothing in (-1, -7):
        request = await asked(world, client, prompt="a", options={"num_keep": below_nothing})
        assert request.shift_keeping == WHOLE_PROMPT


async def test_a_server_that_knows_only_standard_fields_is_not_asked_for_a_default(
    world: World, client: httpx2.AsyncClient
) -> None:
    install(world, replace(spec(SKILLED), format=WeightFormat.REMOTE))
    assert (await asked(world, client, model=SKILLED, prompt="a")).sampling.top_k == 0
    assert (await asked(world, client, model=SKILLED, prompt="a", options={"top_k": 7})).sampling.top_k == 7
    assert (await asked(world, client, model=SKILLED, prompt="a")).shift_keeping is None
    assert (await asked(world, client, model=SKILLED, prompt="a", shift=True)).shift_keeping == 4


async def test_no_new_tokens_are_none(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": "a b", "options": {"num_predict": 0}, "stream": False}
    answer = whole(await client.post("/api/generate", json=body))
    assert (answer["response"], answer["done_reason"]) == ("", "length")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("num_ctx", "4096", "integer"),
        ("num_ctx", True, "integer"),
        ("top_k", 1.5, "integer"),
        ("temperature", "hot", "float32"),
        ("use_mmap", 1, "boolean"),
        ("stop", 5, "array"),
    ],
)
async def test_an_option_of_the_wrong_type_is_named(
    client: httpx2.AsyncClient, name: str, value: object, kind: str
) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "options": {name: value}})
    refused(response, 400, f'option "{name}" must be of type {kind}')


async def test_an_unknown_option_is_logged_and_ignored(client: httpx2.AsyncClient, log: list[Any]) -> None:
    body = {"model": TEXT, "prompt": "a", "options": {"magic": 1, "numa": True, "top_k": 3}, "stream": False}
    whole(await client.post("/api/generate", json=body))
    assert [entry["option"] for entry in log if entry["event"] == "unknown option"] == ["magic"]


async def test_a_value_out_of_range_is_told_in_the_options_words(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": "a", "options": {"repeat_penalty": 0}}
    refused(await client.post("/api/generate", json=body), 400, "repeat_penalty must be above 0 and at most 10")


async def test_a_prompt_may_bring_tools_too(world: World, client: httpx2.AsyncClient) -> None:
    install(world, spec(SKILLED, "tools"))
    prompt = (await asked(world, client, model=SKILLED, prompt="a", tools=[TOOL])).prompt
    assert isinstance(prompt, Chat)
    assert [tool.name for tool in prompt.tools] == ["weather"]


async def test_a_model_for_something_else_does_not_generate(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/generate", json={"model": SPEECH, "prompt": "a"})
    refused(response, 400, f'"{SPEECH}" does not support generate')


async def test_an_unknown_model_is_not_found_before_the_stream(client: httpx2.AsyncClient) -> None:
    for name in ("nobody", "", "../etc"):
        response = await client.post("/api/generate", json={"model": name, "prompt": "a"})
        refused(response, 404, f"model '{name}' not found")
