"""Tools in /v1/chat/completions: what may be called, whether it must be, and how calls look in both directions."""

from dataclasses import replace
from typing import Any

import httpx2
import orjson
import pytest

from domain.errors import UnsupportedCapability
from domain.prompt import Chat, Message, Role
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode
from tests.api.openai.frames import chunks_of, deltas_of
from tests.api.world import TEXT, World

URL = "/v1/chat/completions"
USER = {"role": "user", "content": "one two"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "how it is outside", "parameters": SCHEMA, "strict": True}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "time"}}]
LISBON = ToolCall("call_aaaaaaaa", "weather", '{"city": "Lisbon"}')
PORTO = ToolCall("call_bbbbbbbb", "weather", '{"city": "Porto"}')


def body(**changes: Any) -> dict[str, Any]:
    return {"model": TEXT, "messages": [USER], "tools": TOOLS, **changes}


def chat_of(world: World) -> Chat:
    prompt = world.repository.text(TEXT).requests[-1].prompt
    assert isinstance(prompt, Chat)
    return prompt


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


# -- what is asked --------------------------------------------------------------------------------------


async def test_tools_reach_the_model_with_their_schemas(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post(URL, json=body())
    assert response.status_code == 200, response.text
    weather, time = chat_of(world).tools
    assert (weather.name, weather.description, weather.strict) == ("weather", "how it is outside", True)
    assert orjson.loads(weather.parameters) == SCHEMA
    assert time == Tool("time", parameters='{"type":"object","properties":{}}')
    assert chat_of(world).parallel_tool_calls


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice(ToolMode.AUTO)),
        ("auto", ToolChoice(ToolMode.AUTO)),
        ("none", ToolChoice(ToolMode.NONE)),
        ("required", ToolChoice(ToolMode.REQUIRED)),
        (named("time"), ToolChoice(ToolMode.REQUIRED, ("time",))),
        (allowed("auto", "time"), ToolChoice(ToolMode.AUTO, ("time",))),
        (allowed("required", "time", "weather", "time"), ToolChoice(ToolMode.REQUIRED, ("time", "weather"))),
    ],
)
async def test_every_form_of_tool_choice_is_understood(
    world: World, client: httpx2.AsyncClient, choice: object, expected: ToolChoice
) -> None:
    response = await client.post(URL, json=body(tool_choice=choice))
    assert response.status_code == 200, response.text
    assert chat_of(world).tool_choice == expected


async def test_parallel_calls_can_be_switched_off(world: World, client: httpx2.AsyncClient) -> None:
    await client.post(URL, json=body(parallel_tool_calls=False))
    assert not chat_of(world).parallel_tool_calls


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"tools": ["weather"]}, "tools.0", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "invalid_value"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [named("a b")]}, "tools.0.function", "invalid_value"),
        ({"tools": [named("a" * 129)]}, "tools.0.function", "invalid_value"),
        ({"tools": [named("a"), named("a")]}, "tools", "invalid_value"),
        ({"tools": [named(f"f{index}") for index in range(129)]}, "tools", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", "unsupported_value"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_value"),
        ({"tools": [{"type": 5}]}, "tools.0.type", "invalid_value"),
        (
            {"tools": [{"function": {"name": "f", "description": 5}}]},
            "tools.0.function.description",
            "invalid_value",
        ),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools.0.function.parameters", "invalid_value"),
        ({"tools": [{"function": {"name": "f", "strict": 1}}]}, "tools.0.function.strict", "invalid_value"),
        ({"tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tool_choice": 5}, "tool_choice", "invalid_value"),
        ({"tool_choice": {}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function.name", "invalid_value"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type", "unsupported_value"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "invalid_value"),
        ({"tool_choice": allowed("auto")}, "tool_choice.allowed_tools", "invalid_value"),
        ({"tool_choice": allowed("none", "time")}, "tool_choice.allowed_tools.mode", "invalid_value"),
        ({"tool_choice": allowed("auto", "nobody")}, "tool_choice", "invalid_value"),
        ({"tool_choice": named("nobody")}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required", "tools": None}, "tool_choice", "invalid_value"),
        ({"tool_choice": named("time"), "tools": []}, "tool_choice", "invalid_value"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "invalid_value"),
        ({"functions": [{"name": "a b"}], "tools": None}, "functions.0", "invalid_value"),
        ({"functions": [{"name": "f"}], "tools": None, "function_call": {"name": "g"}}, "function_call", None),
        ({"functions": [{"name": "f"}], "tools": None, "function_call": "required"}, "function_call", None),
    ],
)
async def test_tools_that_cannot_be_had_are_refused_by_the_name_of_their_field(
    client: httpx2.AsyncClient, changes: dict[str, Any], param: str, code: str | None
) -> None:
    response = await client.post(URL, json=body(**changes))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code or "invalid_value"), error


async def test_a_model_without_tools_is_a_clear_refusal(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.error = UnsupportedCapability("the model has no tools", field="tools")
    error = (await client.post(URL, json=body())).json()["error"]
    assert (error["code"], error["param"], error["type"]) == (
        "unsupported_capability", "tools", "invalid_request_error"
    )  # fmt: skip


async def test_calls_and_their_answers_become_the_prompt(world: World, client: httpx2.AsyncClient) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lisbon"}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "content": "Sunny.", "reasoning": "well", "tool_calls": []},
        {"role": "assistant", "content": "", "function_call": {"name": "time", "arguments": ""}},
        {"role": "function", "name": "time", "content": "noon"},
        {"role": "tool", "tool_call_id": "call_9", "name": "other", "content": ""},
        {"role": "user", "content": "ok"},
    ]
    response = await client.post(URL, json=body(messages=messages))
    assert response.status_code == 200, response.text
    assert chat_of(world).messages == (
        Message(Role.USER, "one two"),
        Message(Role.ASSISTANT, "", "hm", (ToolCall("call_1", "weather", '{"city": "Lisbon"}'),)),
        Message(Role.TOOL, "sunny", tool_call_id="call_1", tool_name="weather"),
        Message(Role.ASSISTANT, "Sunny.", "well"),
        Message(Role.ASSISTANT, "", tool_calls=(ToolCall("", "time", "{}"),)),
        Message(Role.TOOL, "noon", tool_name="time"),
        Message(Role.TOOL, "", tool_call_id="call_9", tool_name="other"),
        Message(Role.USER, "ok"),
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"tool_calls": "x"}, "tool_calls"),
        ({"tool_calls": ["x"]}, "tool_calls.0"),
        ({"tool_calls": [{"id": 5}]}, "tool_calls.0.id"),
        ({"tool_calls": [{"id": "c"}]}, "tool_calls.0.function.name"),
        ({"tool_calls": [{"type": "custom"}]}, "tool_calls.0.type"),
        ({"tool_calls": [{"function": {"name": "f"}}]}, "tool_calls.0.function.arguments"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, "tool_calls.0.function.arguments"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "tool_calls.0.function.arguments"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}, "tool_calls.0.function.arguments"),
        ({"function_call": {"name": "f", "arguments": 5}}, "function_call.arguments"),
        ({"reasoning": ["x"]}, "reasoning"),
        ({"content": None}, "content"),
        ({"content": None, "tool_calls": []}, "content"),
        ({"role": "tool", "tool_call_id": 5}, "tool_call_id"),
        ({"role": "tool", "content": None, "tool_call_id": "c"}, "content"),
        ({"role": "function"}, "name"),
    ],
)
async def test_a_message_that_cannot_be_read_is_named(
    client: httpx2.AsyncClient, message: dict[str, Any], param: str
) -> None:
    messages = [USER, {"role": "assistant", "content": "x", **message}]
    response = await client.post(URL, json=body(messages=messages))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == f"messages.1.{param}"


# -- what is answered -----------------------------------------------------------------------------------


async def test_calls_are_answered_with_strings_of_json_and_no_content(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.tool_calls = [""], (LISBON, PORTO)
    (choice,) = (await client.post(URL, json=body())).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {
            "id": "call_aaaaaaaa",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Lisbon"}'},
        },
        {"id": "call_bbbbbbbb", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Porto"}'}},
    ]
    script.chunks = ["I look."]
    (choice,) = (await client.post(URL, json=body())).json()["choices"]
    assert (choice["message"]["content"], len(choice["message"]["tool_calls"])) == ("I look.", 2)


async def test_parallel_calls_of_a_stream_have_indices_and_are_named_once(
    world: World, client: httpx2.AsyncClient
) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.tool_calls = ["I look."], (LISBON, PORTO)
    chunks = chunks_of(await client.post(URL, json=body(stream=True)))
    role, content, *calls, finish = deltas_of(chunks)
    assert (role, content, finish) == ({"role": "assistant", "content": ""}, {"content": "I look."}, {})
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    arguments = {0: "", 1: ""}
    opened = []
    for delta in calls:
        (call,) = delta["tool_calls"]
        arguments[call["index"]] += call["function"]["arguments"]
        if "id" in call:
            opened.append((call["index"], call["id"], call["type"], call["function"]["name"]))
        else:
            assert set(call["function"]) == {"arguments"}
    assert opened == [(0, "call_aaaaaaaa", "function", "weather"), (1, "call_bbbbbbbb", "function", "weather")]
    assert [arguments[0], arguments[1]] == [LISBON.arguments, PORTO.arguments]


async def test_calls_that_the_limit_of_tokens_ended_are_length(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.tool_calls = ["a", "b"], (LISBON,)
    (choice,) = (await client.post(URL, json=body(max_tokens=1))).json()["choices"]
    assert choice["finish_reason"] == "length"


async def test_the_old_form_is_mapped_to_tools_and_answered_in_its_own_words(
    world: World, client: httpx2.AsyncClient
) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.tool_calls = [""], (LISBON,)
    old = {"tools": None, "functions": [WEATHER], "function_call": {"name": "weather"}}
    (choice,) = (await client.post(URL, json=body(**old))).json()["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Lisbon"}'}
    assert choice["message"]["content"] is None
    assert "tool_calls" not in choice["message"]
    chat = chat_of(world)
    assert chat.tool_choice == ToolChoice(ToolMode.REQUIRED, ("weather",))
    assert (chat.tools[0].name, chat.parallel_tool_calls) == ("weather", False)
    chunks = chunks_of(await client.post(URL, json=body(stream=True, **old)))
    assert [delta["function_call"] for delta in deltas_of(chunks) if "function_call" in delta] == [
        {"name": "weather", "arguments": ""},
        {"arguments": '{"city": "Lisbon"}'},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


async def test_the_old_form_is_ignored_beside_tools(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post(URL, json=body(functions=[{"name": "old"}], function_call={"name": "old"}))
    assert response.status_code == 200, response.text
    assert [tool.name for tool in chat_of(world).tools] == ["weather", "time"]


async def test_tools_of_a_made_model_start_from_its_own_system_text(world: World, client: httpx2.AsyncClient) -> None:
    spec = world.repository.specs[0]
    world.repository.specs[0] = replace(spec, preset=replace(spec.preset, system="be brief"))
    await client.post(URL, json=body())
    assert [message.role for message in chat_of(world).messages] == [Role.SYSTEM, Role.USER]
