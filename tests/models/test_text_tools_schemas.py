"""The schemas of tools: kept to by whatever a model writes, or refused by the tool's name."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from domain.errors import InvalidRequest
from domain.generation import FinishReason
from domain.prompt import Chat
from domain.tools import Tool, ToolChoice
from models.text.engine import TextEngine
from tests.models.calling import REQUIRED, SAID, USER, answer, asked, engines_of, told


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TextEngine]]:
    with engines_of(tmp_path_factory.mktemp("tools")) as engines:
        yield engines


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


async def test_a_text_that_cannot_be_held_to_its_schema_outside_of_json_is_refused(
    engines: dict[str, TextEngine],
) -> None:
    parameters = '{"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}'
    chat = Chat(USER, tools=(Tool("odd", parameters=parameters),), tool_choice=REQUIRED)
    with pytest.raises(InvalidRequest) as caught:
        await answer(engines["qwen xml"], "", chat)
    assert (caught.value.field, "format" in str(caught.value)) == ("tools", True)
    script = "<tool_call>\n<function=odd>\n<parameter=day>\ntoday\n</parameter>\n</function>\n</tool_call>"
    called = await answer(engines["qwen xml"], script, replace(chat, tool_choice=ToolChoice()))
    assert called == ("", "", [("odd", {"day": "today"})])


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


@pytest.mark.parametrize("family", ["random", "random xml"])
async def test_random_schemas_are_kept_to_by_a_random_model(engines: dict[str, TextEngine], family: str) -> None:
    finished = 0
    engine = engines[family]
    for number in range(12):
        random_ = random.Random(number)
        schemas = {f"tool_{index}": random_object(random_) for index in range(random_.randint(1, 3))}
        tools = tuple(Tool(name, parameters=json.dumps(schema)) for name, schema in schemas.items())
        calls = await random_calls(engine, tools, seed=number)
        finished += len(calls)
        for name, arguments in calls:
            jsonschema.validate(arguments, schemas[name])
    assert finished >= 8


async def random_calls(engine: TextEngine, tools: tuple[Tool, ...], seed: int) -> list[tuple[str, Any]]:
    chat = Chat(USER, tools=tools, tool_choice=REQUIRED, parallel_tool_calls=seed % 2 == 0)
    text, _, calls, last = await told(engine.generate(asked(chat, 200, temperature=1.0, seed=seed)))
    assert last.finish is not None
    if last.finish.reason is FinishReason.STOP:
        assert text == ""
        assert calls
        assert len(calls) == 1 or chat.parallel_tool_calls
    return calls
