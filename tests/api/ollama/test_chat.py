"""POST /api/chat: messages in, messages out, tools and thinking beside them."""

from typing import Any

import httpx2
import pytest

from domain.errors import GenerationFailed, Overloaded
from domain.preset import Preset
from domain.prompt import Chat, Message, RawText, Role
from domain.tools import ToolCall, ToolChoice, ToolMode
from tests.api.ollama.asking import PRESET, SKILLED, TOOL, USER, install, lines_of, refused, spec, whole
from tests.api.world import SPEECH, TEXT, World


async def chat_in(world: World, client: httpx2.AsyncClient, **body: Any) -> Chat:
    """The chat that the model was given for a body."""
    response = await client.post("/api/chat", json={"model": TEXT, "messages": USER, "stream": False, **body})
    assert response.status_code == 200, response.text
    prompt = world.repository.text(body.get("model", TEXT)).requests[-1].prompt
    assert isinstance(prompt, Chat)
    return prompt


async def test_a_stream_holds_messages_and_ends_with_the_figures(client: httpx2.AsyncClient) -> None:
    *pieces, last = lines_of(await client.post("/api/chat", json={"model": TEXT, "messages": USER}))
    assert [piece["message"] for piece in pieces] == [
        {"role": "assistant", "content": text} for text in ("one", " two", " three")
    ]
    assert (last["message"], last["done"], last["done_reason"]) == ({"role": "assistant", "content": ""}, True, "stop")
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 3)
    assert "context" not in last
    answer = whole(await client.post("/api/chat", json={"model": TEXT, "messages": USER, "stream": False}))
    assert answer["message"] == {"role": "assistant", "content": "one two three"}


async def test_every_part_of_a_message_reaches_the_model(world: World, client: httpx2.AsyncClient) -> None:
    call = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Lisbon"}}}
    chat = await chat_in(
        world,
        client,
        messages=[
            {"role": "SYSTEM", "content": "be kind"},
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "11 degrees", "tool_name": "weather", "tool_call_id": "call_1"},
            {"role": "Wizard", "content": "abracadabra"},
            {"role": "assistant"},
        ],
    )
    assert chat.messages == (
        Message(Role.SYSTEM, "be kind"),
        Message(Role.USER, "weather?"),
        Message(Role.ASSISTANT, "", thinking="hm", tool_calls=(ToolCall("call_1", "weather", '{"city":"Lisbon"}'),)),
        Message(Role.TOOL, "11 degrees", tool_call_id="call_1", tool_name="weather"),
        Message("Wizard", "abracadabra"),
        Message(Role.ASSISTANT, ""),
    )


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(ToolMode.NONE)),
        ("required", ToolChoice(ToolMode.REQUIRED)),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice(ToolMode.REQUIRED, ("weather",))),
    ],
)
async def test_tools_and_their_choice_reach_the_model(
    world: World, client: httpx2.AsyncClient, choice: object, wanted: ToolChoice
) -> None:
    install(world, spec(SKILLED, "tools"))
    chat = await chat_in(world, client, model=SKILLED, tools=[TOOL], tool_choice=choice)
    assert [(tool.name, tool.description) for tool in chat.tools] == [("weather", "tells it")]
    assert chat.tool_choice == wanted


async def test_calls_come_whole_in_a_record_of_their_own(world: World, client: httpx2.AsyncClient) -> None:
    install(world, spec(SKILLED, "tools"))
    script = world.repository.script(SKILLED).text
    script.chunks = [""]
    script.tool_calls = (
        ToolCall("call_x7k2m9qa", "weather", '{"city": "Lisbon"}'),
        ToolCall("call_x7k2m9qb", "weather", "{}"),
    )
    body = {"model": SKILLED, "messages": USER, "tools": [TOOL]}
    calls, last = lines_of(await client.post("/api/chat", json=body))
    assert (calls["done"], calls["message"]["content"]) == (False, "")
    assert calls["message"]["tool_calls"] == [
        {"id": "call_x7k2m9qa", "function": {"index": 0, "name": "weather", "arguments": {"city": "Lisbon"}}},
        {"id": "call_x7k2m9qb", "function": {"index": 1, "name": "weather", "arguments": {}}},
    ]
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    answer = whole(await client.post("/api/chat", json={**body, "stream": False}))
    assert answer["message"]["tool_calls"] == calls["message"]["tool_calls"]


async def test_no_tools_are_no_tools(world: World, client: httpx2.AsyncClient) -> None:
    assert (await chat_in(world, client, tools=[])).tools == ()
    assert (await chat_in(world, client, tools=None)).tools == ()


async def test_tools_need_a_model_that_knows_them(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/chat", json={"model": TEXT, "messages": USER, "tools": [TOOL]})
    refused(response, 400, f"{TEXT} does not support tools")


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "web_search", "function": {"name": "a"}}]},
        {"tools": [TOOL, TOOL]},
        {"tools": [TOOL], "tool_choice": "sometimes"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tool_choice": "required"},
        {"messages": [{"role": "", "content": "a"}]},
        {"messages": [{"role": 5, "content": "a"}]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
        {"messages": USER * 1025},
    ],
)
async def test_what_cannot_be_understood_is_refused(
    world: World, client: httpx2.AsyncClient, field: dict[str, Any]
) -> None:
    install(world, spec(SKILLED, "tools"))
    response = await client.post("/api/chat", json={"model": SKILLED, "messages": USER, **field})
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


async def test_thinking_is_a_field_of_the_message(world: World, client: httpx2.AsyncClient) -> None:
    install(world, spec(SKILLED, "thinking"))
    script = world.repository.script(SKILLED).text
    script.thinking, script.chunks = "let me see", ["four"]
    first, *_ = lines_of(await client.post("/api/chat", json={"model": SKILLED, "messages": USER}))
    assert first["message"] == {"role": "assistant", "content": "", "thinking": "let me see"}
    assert (await chat_in(world, client, model=SKILLED)).think is True
    assert (await chat_in(world, client, model=SKILLED, think=False)).think is False


async def test_the_models_own_messages_and_system_text_go_first(world: World, client: httpx2.AsyncClient) -> None:
    opening = (Message(Role.USER, "hello"), Message(Role.ASSISTANT, "good day"))
    install(world, spec(PRESET, preset=Preset("be polite", messages=opening)))
    said = Message(Role.USER, "one two three")
    chat = await chat_in(world, client, model=PRESET)
    assert chat.messages == (Message(Role.SYSTEM, "be polite"), *opening, said)
    own = [{"role": "system", "content": "be rude"}, *USER]
    chat = await chat_in(world, client, model=PRESET, messages=own)
    assert chat.messages == (*opening, Message(Role.SYSTEM, "be rude"), said)


async def test_a_models_own_template_is_filled_once_for_each_turn(world: World, client: httpx2.AsyncClient) -> None:
    template = "{{ .System }}|Q:{{ .Prompt }}|A:{{ .Response }};"
    install(world, spec(PRESET, "tools", preset=Preset("sys", template=template)))
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c {{ .System }}"},
    ]
    response = await client.post("/api/chat", json={"model": PRESET, "messages": messages, "stream": False})
    assert response.status_code == 200
    prompt = world.repository.text(PRESET).requests[-1].prompt
    assert prompt == RawText("sys|Q:a|A:b;|Q:c {{ .System }}|A:")
    for wrong in ({"tools": [TOOL]}, {"messages": [{"role": "tool", "content": "5"}]}):
        response = await client.post("/api/chat", json={"model": PRESET, "messages": messages, **wrong})
        assert response.status_code == 400


async def test_a_chat_can_be_seen_without_an_answer(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "messages": USER, "_debug_render_only": True}
    assert len(whole(await client.post("/api/chat", json=body))["_debug_info"]["rendered_template"].split()) == 3


async def test_chat_has_its_own_words_for_what_is_missing(client: httpx2.AsyncClient) -> None:
    refused(await client.post("/api/chat", json={"messages": USER}), 400, "model is required")
    refused(await client.post("/api/chat", content=b""), 400, "missing request body")
    response = await client.post("/api/chat", json={"model": "nobody", "messages": USER})
    refused(response, 404, "model 'nobody' not found")
    response = await client.post("/api/chat", json={"model": SPEECH, "messages": USER})
    refused(response, 400, f'"{SPEECH}" does not support chat')
    response = await client.post("/api/chat", content=b"{nope")
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")


async def test_a_full_queue_is_told_in_the_words_that_clients_know(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.error = Overloaded()
    response = await client.post("/api/chat", json={"model": TEXT, "messages": USER})
    refused(response, 503, "server busy, please try again.  maximum pending requests exceeded")
    assert int(response.headers["retry-after"]) >= 1


async def test_an_error_after_the_first_record_is_one_line_and_the_end(
    world: World, client: httpx2.AsyncClient
) -> None:
    script = world.repository.script(TEXT).text
    script.error, script.error_after = GenerationFailed("the step failed"), 2
    records = lines_of(await client.post("/api/chat", json={"model": TEXT, "messages": USER}))
    assert records[-1] == {"error": "the step failed"}
    assert not any(record.get("done") for record in records)
