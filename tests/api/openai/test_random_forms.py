"""Whatever schemas and tools somebody sends: a finished answer has their form, and no form is promised in vain."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest

from api.app import create_app
from ingle.bootstrap import build
from ingle.settings_sources import read_settings
from tests.api.openai.frames import Json
from tests.api.world import in_process
from tests.models.tiny import CHAT_TEMPLATE, save_tiny

URL = "/v1/chat/completions"
CASES = 200
# What no grammar can count or compare; each stands for its kind.
UNENFORCEABLE: tuple[Json, ...] = (
    {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    {"not": {"type": "string"}},
    {"if": {"type": "string"}, "then": {"minLength": 2}},
    {"type": "array", "contains": {"type": "null"}},
    {"$ref": "https://example.com/schema.json"},
    {"type": "nonsense"},
    {"type": "string", "pattern": "("},
)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """The whole program in this process, over a model of random weights."""
    save_tiny(tmp_path / "models" / "dice", template=CHAT_TEMPLATE + "{# tools <tool_call> #}")
    environ = {
        "INGLE_MODELS_DIR": str(tmp_path / "models"),
        "INGLE_DATA_DIR": str(tmp_path / "data"),
        "INGLE_MIN_MEMORY_GB": "0",
    }
    application = build(read_settings(environ).settings)
    try:
        async with in_process(create_app(application.services)) as client:
            yield client
    finally:
        await application.close()


async def test_200_random_schemas_and_sets_of_tools_are_kept_to_or_refused(client: httpx2.AsyncClient) -> None:
    at_once = asyncio.Semaphore(16)

    async def case(number: int) -> str:
        async with at_once:
            return await (tools_case if number % 2 else schema_case)(client, random.Random(number))

    outcomes = await asyncio.gather(*(case(number) for number in range(CASES)))
    assert outcomes.count("kept") > CASES / 3
    assert outcomes.count("refused") > CASES / 20
    assert set(outcomes) <= {"kept", "refused", "cut"}


async def schema_case(client: httpx2.AsyncClient, dice: random.Random) -> str:
    schema = any_object(dice)
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": dice.random() < 0.5}}
    response = await ask(client, dice, response_format=form)
    if is_refused(response, schema, "response_format"):
        return "refused"
    (choice,) = response.json()["choices"]
    if choice["finish_reason"] == "length":
        return "cut"
    jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    return "kept"


async def tools_case(client: httpx2.AsyncClient, dice: random.Random) -> str:
    schemas = {f"tool_{index}": any_object(dice) for index in range(dice.randint(1, 3))}
    tools = [{"type": "function", "function": {"name": name, "parameters": one}} for name, one in schemas.items()]
    named = dice.choice(list(schemas))
    choice, wanted = dice.choice(
        [("required", set(schemas)), ({"type": "function", "function": {"name": named}}, {named})]
    )
    parallel = dice.random() < 0.5
    response = await ask(client, dice, tools=tools, tool_choice=choice, parallel_tool_calls=parallel)
    if is_refused(response, [schemas[name] for name in wanted], "tools"):
        return "refused"
    (answer,) = response.json()["choices"]
    if answer["finish_reason"] == "length":
        return "cut"
    assert answer["finish_reason"] == "tool_calls"
    calls = [call["function"] for call in answer["message"]["tool_calls"]]
    assert {call["name"] for call in calls} <= wanted
    assert len(calls) == 1 or parallel
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])
    return "kept"


async def ask(client: httpx2.AsyncClient, dice: random.Random, **changes: Any) -> httpx2.Response:
    body = {
        "model": "dice",
        "messages": [{"role": "user", "content": "go"}],
        "temperature": 1,
        "seed": dice.randint(0, 99),
        "max_completion_tokens": 150,
    }
    return await client.post(URL, json={**body, **changes})


def is_refused(response: httpx2.Response, schemas: object, param: str) -> bool:
    """Whether the answer is a 400 that says why; only what cannot be enforced may be refused."""
    if response.status_code == 200:
        return False
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert error["code"] in ("invalid_value", "unsupported_value", "unsupported_parameter"), error
    assert error["param"].startswith(param), error
    assert len(error["message"]) > 20
    said = json.dumps(schemas)
    assert any(json.dumps(one) in said for one in UNENFORCEABLE), error
    return True


# -- schemas ------------------------------------------------------------------------------------------


def any_object(dice: random.Random, depth: int = 0) -> Json:
    names = dice.sample(["a", "b c", "é", "$d", '"', "🦜"], dice.randint(0, 3))
    return {
        "type": "object",
        "properties": {name: any_schema(dice, depth) for name in names},
        "required": [name for name in names if dice.random() < 0.7],
        "additionalProperties": False,
    }


def any_schema(dice: random.Random, depth: int) -> Json:
    if dice.random() < 0.05:
        return dice.choice(UNENFORCEABLE)
    simple: list[Json] = [
        {"type": "integer", "minimum": -3, "maximum": dice.randint(0, 99)},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["boolean", "null"]},
        {"type": "string", "maxLength": dice.randint(1, 4)},
        {"type": "string", "pattern": "^[a-c]{1,3}$"},
        {"enum": dice.sample(["a", 1, None, True, "a b", {"x": [1]}], 2)},
        {"const": dice.choice(["x", 5, None])},
    ]
    if depth == 2 or dice.random() < 0.6:
        return dice.choice(simple)
    match dice.choice(("object", "array", "either")):
        case "object":
            return any_object(dice, depth + 1)
        case "array":
            return {"type": "array", "items": any_schema(dice, depth + 1), "maxItems": 2}
        case _:
            return {"anyOf": [any_schema(dice, depth + 1) for _ in range(2)]}
