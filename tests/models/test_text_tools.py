"""Tools and thinking through the engine: calls that are asked for are made, and forms wait for the thoughts to end."""

import json
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from domain.constraint import JsonSchema
from domain.errors import InvalidRequest
from domain.generation import FinishReason, GenerationRequest, SamplingParams, TextChunk
from domain.prompt import Chat, Message, Role, TokenIds
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode
from models.text.engine import TextEngine
from models.text.marks import MAX_CALLS
from tests.models.scripted import follow_script
from tests.models.talking import idle, talking
from tests.models.tiny import CHAT_TEMPLATE, save_tiny

USER = (Message(Role.USER, "the weather?"),)
CITY = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"enum": ["Rio", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
)
WEATHER = Tool("weather", parameters=CITY)
STRICT = replace(WEATHER, strict=True)
TIME = Tool("time")
SAYS_CITY = JsonSchema(CITY)
TEMPLATES = {
    "hermes": CHAT_TEMPLATE + "{# tools <tool_call> #}",
    "llama": CHAT_TEMPLATE + '{# tools "parameters" <|python_tag|> #}',
    "mistral": CHAT_TEMPLATE + "{# tools [TOOL_CALLS] #}",
    "mistral named": CHAT_TEMPLATE + "{# tools [TOOL_CALLS][ARGS] #}",
    "bare": CHAT_TEMPLATE + "{# tools #}",
    "thinks": CHAT_TEMPLATE + "{# tools <tool_call> enable_thinking #}",
    "random": CHAT_TEMPLATE + "{# tools <tool_call> #}",
    "opens": CHAT_TEMPLATE + "{# tools <tool_call> #}{% if add_generation_prompt %}<think>\n{% endif %}",
}
REQUIRED = ToolChoice(ToolMode.REQUIRED)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TextEngine]]:
    """One for each family, all with the same weights."""
    root = tmp_path_factory.mktemp("tools")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(talking(save_tiny(root / name, talks=True, template=template)))
            for name, template in TEMPLATES.items()
        }


def asked(chat: Chat, max_tokens: int = 300, **more: Any) -> GenerationRequest:
    names = ("temperature", "seed", "stop", "logprobs")
    sampling = {name: more.pop(name) for name in names if name in more}
    return GenerationRequest(chat, SamplingParams(**{"temperature": 0.0, "max_tokens": max_tokens, **sampling}), **more)


async def told(stream: AsyncGenerator[TextChunk, None]) -> tuple[str, str, list[tuple[str, Any]], TextChunk]:
    """Text, thinking, calls and last chunk of the one answer."""
    chunks = [chunk async for chunk in stream]
    calls = [(call.name, json.loads(call.arguments)) for chunk in chunks for call in chunk.tool_calls]
    return "".join(chunk.text for chunk in chunks), "".join(chunk.thinking for chunk in chunks), calls, chunks[-1]


async def answer(engine: TextEngine, script: str, chat: Chat, **more: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    follow_script(engine, script)
    text, thinking, calls, last = await told(engine.generate(asked(chat, **more)))
    assert last.finish is not None
    assert last.finish.reason is FinishReason.STOP
    await idle(engine)
    return text, thinking, calls


RIO = ("weather", {"city": "Rio"})
SAID = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Rio"}}\n</tool_call>',
    "llama": '{"name": "weather", "parameters": {"city": "Rio"}}',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rio"}}]',
    "mistral named": '[TOOL_CALLS]weather[ARGS]{"city": "Rio"}',
    "bare": '{"name": "weather", "arguments": {"city": "Rio"}}',
}


@pytest.mark.parametrize("family", SAID)
async def test_a_call_is_told_whether_the_model_chose_it_or_had_to(engines: dict[str, TextEngine], family: str) -> None:
    for tool in (WEATHER, STRICT):
        for choice in (ToolChoice(), REQUIRED, ToolChoice(ToolMode.REQUIRED, ("weather",))):
            chat = Chat(USER, tools=(tool, TIME), tool_choice=choice)
            assert await answer(engines[family], SAID[family], chat) == ("", "", [RIO])


@pytest.mark.parametrize("family", SAID)
async def test_a_model_that_would_rather_talk_must_call(engines: dict[str, TextEngine], family: str) -> None:
    chat = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED, parallel_tool_calls=False)
    text, _, calls = await answer(engines[family], "It is sunny.", chat)
    assert text == ""
    assert [name for name, _ in calls] == ["weather"]
    jsonschema.validate(calls[0][1], json.loads(CITY))


async def test_a_required_call_that_is_cut_short_is_neither_call_nor_text(engines: dict[str, TextEngine]) -> None:
    follow_script(engines["hermes"], SAID["hermes"])
    chat = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED)
    text, _, calls, last = await told(engines["hermes"].generate(asked(chat, max_tokens=20)))
    assert last.finish is not None
    assert (text, calls, last.finish.reason) == ("", [], FinishReason.LENGTH)


@pytest.mark.parametrize("family", SAID)
async def test_tools_that_must_not_be_called_are_not(engines: dict[str, TextEngine], family: str) -> None:
    chat = Chat(USER, tools=(WEATHER,), tool_choice=ToolChoice(ToolMode.NONE))
    text, _, calls = await answer(engines[family], SAID[family], chat)
    assert calls == []
    assert '"Rio"' in text


@pytest.mark.parametrize("script", [SAID["hermes"], '{"name": "weather", "arguments": {"city": "Rio"}}'])
async def test_what_a_model_begins_as_a_call_keeps_to_the_schema(engines: dict[str, TextEngine], script: str) -> None:
    chat = Chat(USER, tools=(WEATHER, TIME))
    text, _, calls = await answer(engines["hermes"], script.replace("Rio", "Qrio"), chat)
    assert (text, len(calls)) == ("", 1)
    jsonschema.validate(calls[0][1], json.loads(CITY))
    marked = script.startswith("<")
    text, _, calls = await answer(engines["hermes"], script.replace('"weather"', '"unknown"'), chat)
    assert [name for name, _ in calls] == (["weather"] if marked else []) or calls[0][0] == "time"
    assert bool(text) is not marked


async def test_text_and_other_json_stay_free_beside_tools(engines: dict[str, TextEngine]) -> None:
    chat = Chat(USER, tools=(WEATHER,))
    for script in ("It is sunny.", '{"city": "Bergen"}', '{"name": "Bergen"}'):
        assert await answer(engines["hermes"], script, chat) == (script, "", [])


async def test_one_call_is_all_where_calls_may_not_be_parallel(engines: dict[str, TextEngine]) -> None:
    for choice in (ToolChoice(), REQUIRED):
        chat = Chat(USER, tools=(WEATHER,), tool_choice=choice)
        script = f"{SAID['hermes']}\n{SAID['hermes']}"
        assert await answer(engines["hermes"], script, chat) == ("", "", [RIO, RIO])
        alone = replace(chat, parallel_tool_calls=False)
        assert await answer(engines["hermes"], script, alone) == ("", "", [RIO])


@pytest.mark.parametrize("family", ["hermes", "mistral", "mistral named"])
async def test_a_model_that_repeats_a_required_call_for_ever_is_stopped(family: str, tmp_path: Path) -> None:
    said = SAID[family]
    if family == "mistral":
        said = f"[TOOL_CALLS][{', '.join([SAID['bare']] * 30)}]"
    else:
        said = ("\n" if family == "hermes" else "").join([said] * 30)
    directory = save_tiny(tmp_path, talks=True, template=TEMPLATES[family], max_position_embeddings=2048)
    with talking(directory) as engine:
        chat = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED)
        assert await answer(engine, said, chat, max_tokens=1900) == ("", "", [RIO] * MAX_CALLS)


async def test_a_form_beside_tools_leaves_the_choice_between_the_two(engines: dict[str, TextEngine]) -> None:
    chat = Chat(USER, tools=(TIME, WEATHER))
    more = {"constraint": SAYS_CITY}
    assert await answer(engines["hermes"], '{"city": "Oslo"}', chat, **more) == ('{"city": "Oslo"}', "", [])
    assert await answer(engines["hermes"], SAID["hermes"], chat, **more) == ("", "", [RIO])
    with pytest.raises(InvalidRequest) as caught:
        await answer(engines["bare"], "", chat, **more)
    assert caught.value.field == "tools"


THOUGHT = "<think>\nhm, hm\n</think>\n\n"


@pytest.mark.parametrize("family", ["thinks", "opens"])
async def test_a_form_begins_where_the_thinking_ends(engines: dict[str, TextEngine], family: str) -> None:
    thought = THOUGHT if family == "thinks" else THOUGHT.removeprefix("<think>\n")
    engine = engines[family]
    form = {"constraint": SAYS_CITY}
    assert await answer(engine, thought + "Hello", Chat(USER)) == ("Hello", "hm, hm", [])
    assert await answer(engine, thought + '{"city": "Rio"}', Chat(USER), **form) == ('{"city": "Rio"}', "hm, hm", [])
    required = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED)
    assert await answer(engine, thought + SAID["hermes"], required) == ("", "hm, hm", [RIO])
    free = Chat(USER, tools=(WEATHER,))
    assert await answer(engine, f"{thought}So.\n{SAID['hermes']}", free) == ("So.", "hm, hm", [RIO])
    assert await answer(engine, '{"city": "Rio"}', Chat(USER, think=False), **form) == ('{"city": "Rio"}', "", [])


async def test_the_last_tokens_of_a_chat_are_answered_as_that_chat(engines: dict[str, TextEngine]) -> None:
    chat, engine = Chat(USER, tools=(WEATHER,)), engines["opens"]
    ids = await engine.encode(chat)
    follow_script(engine, THOUGHT.removeprefix("<think>\n") + SAID["hermes"])
    params = SamplingParams(temperature=0.0, max_tokens=300)
    text, thinking, calls, _ = await told(engine.generate(GenerationRequest(TokenIds(ids[2:], chat), params)))
    assert (text, thinking, calls) == ("", "hm, hm", [RIO])


async def test_thinking_is_counted_and_stop_strings_and_probabilities_leave_it_out(
    engines: dict[str, TextEngine],
) -> None:
    follow_script(engines["thinks"], "<think>a b</think>c b")
    chunks = [chunk async for chunk in engines["thinks"].generate(asked(Chat(USER), stop=("b",), logprobs=0))]
    finish = chunks[-1].finish
    assert finish is not None
    assert "".join(chunk.thinking for chunk in chunks) == "a b"
    assert "".join(chunk.text for chunk in chunks) == "c "
    assert b"".join(entry.raw for chunk in chunks for entry in chunk.logprobs) == b"c "
    assert (finish.usage.reasoning_tokens, finish.usage.completion_tokens) == (5, 8)


async def test_ids_of_calls_repeat_with_the_seed(engines: dict[str, TextEngine]) -> None:
    async def ids(seed: int | None) -> list[str]:
        follow_script(engines["hermes"], SAID["hermes"])
        request = replace(asked(Chat(USER, tools=(WEATHER,)), seed=seed), n=2)
        chunks = [chunk async for chunk in engines["hermes"].generate(request)]
        calls: list[ToolCall] = [call for chunk in chunks for call in chunk.tool_calls]
        return sorted(call.id for call in calls)

    assert await ids(1) == await ids(1) != await ids(2)
    assert len({*await ids(None), *await ids(None)}) == 4


@pytest.mark.parametrize(
    "parameters",
    [
        '{"type": "string"}',
        '{"type": "object", "properties": {"a": {"type": "stuff"}}}',
        '{"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]}',
        '{"type": "object", "properties": {"a": false}, "required": ["a"]}',
    ],
)
async def test_a_schema_that_cannot_be_kept_to_is_refused_by_name(
    engines: dict[str, TextEngine], parameters: str
) -> None:
    chat = Chat(USER, tools=(Tool("odd", parameters=parameters),), tool_choice=REQUIRED)
    with pytest.raises(InvalidRequest) as caught:
        await answer(engines["hermes"], "", chat)
    assert caught.value.field == "tools"
    assert "odd" in str(caught.value)


async def test_what_cannot_be_enforced_matters_only_where_it_was_promised(engines: dict[str, TextEngine]) -> None:
    loose = Tool(
        "weather", parameters='{"type": "object", "properties": {"city": {"type": "array", "uniqueItems": true}}}'
    )
    script = SAID["hermes"].replace('"Rio"', '["Rio"]')
    assert (await answer(engines["hermes"], script, Chat(USER, tools=(loose,))))[2] == [("weather", {"city": ["Rio"]})]
    for chat in (
        Chat(USER, tools=(replace(loose, strict=True),)),
        Chat(USER, tools=(loose,), tool_choice=REQUIRED),
    ):
        with pytest.raises(InvalidRequest):
            await answer(engines["hermes"], script, chat)


def random_schema(random_: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = [
        "integer",
        "boolean",
        "null",
        "string",
        "enum",
        "number",
        *(["object", "array", "anyOf"] if depth < 2 else []),
    ]
    match random_.choice(kinds):
        case "enum":
            return {"enum": random_.sample(["a", 1, None, True, "a b", {"x": [1]}], 2)}
        case "string":
            return random_.choice([{"type": "string", "maxLength": 4}, {"type": "string", "pattern": "^[a-c]{1,3}$"}])
        case "integer":
            return {"type": "integer", "minimum": -3, "maximum": random_.randint(0, 99)}
        case "number":
            return {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
        case "array":
            return {"type": "array", "items": random_schema(random_, depth + 1), "maxItems": 2}
        case "anyOf":
            return {"anyOf": [random_schema(random_, depth + 1) for _ in range(2)]}
        case "object":
            return random_object(random_, depth + 1)
        case kind:
            return {"type": kind}


def random_object(random_: random.Random, depth: int = 0) -> dict[str, Any]:
    names = random_.sample(["a", "b c", "é", "$d", '"'], random_.randint(0, 3))
    properties = {name: random_schema(random_, depth) for name in names}
    required = [name for name in names if random_.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


async def test_random_schemas_are_kept_to_by_a_random_model(engines: dict[str, TextEngine]) -> None:
    finished = 0
    engine = engines["random"]
    for number in range(30):
        random_ = random.Random(number)
        schemas = {f"tool_{index}": random_object(random_) for index in range(random_.randint(1, 3))}
        tools = tuple(Tool(name, parameters=json.dumps(schema)) for name, schema in schemas.items())
        calls = await random_calls(engine, tools, seed=number)
        finished += len(calls)
        for name, arguments in calls:
            jsonschema.validate(arguments, schemas[name])
    assert finished >= 20


async def random_calls(engine: TextEngine, tools: tuple[Tool, ...], seed: int) -> list[tuple[str, Any]]:
    chat = Chat(USER, tools=tools, tool_choice=REQUIRED, parallel_tool_calls=seed % 2 == 0)
    text, _, calls, last = await told(engine.generate(asked(chat, 200, temperature=1.0, seed=seed)))
    assert last.finish is not None
    if last.finish.reason is FinishReason.STOP:
        assert text == ""
        assert calls
        assert len(calls) == 1 or chat.parallel_tool_calls
    return calls
