"""What form an answer must have, in the spellings of this dialect and of servers that extend it."""

from collections.abc import Mapping
from typing import Any

import orjson

from api.errors import UnsupportedValue
from api.openai.reading import wrong
from domain.constraint import Choice, Constraint, JsonSchema, Regex

_ANY_OBJECT = JsonSchema('{"type":"object"}')


def constraint_of(
    response_format: Mapping[str, Any] | None, structured: Mapping[str, Any] | None, guided: Mapping[str, Any]
) -> Constraint | None:
    """The one constraint that a body asks for, or None.

    `structured` (`structured_outputs`) and `guided` (`guided_json`, …) map json, regex or choice to what they say.
    Raises InvalidRequest for two constraints, or for one that cannot be read.
    """
    wishes = [
        *([_format(response_format)] if response_format is not None else []),
        *(_extension("structured_outputs", kind, wish) for kind, wish in (structured or {}).items()),
        *(_extension(f"guided_{kind}", kind, wish) for kind, wish in guided.items()),
    ]
    constraints = [constraint for constraint in wishes if constraint is not None]
    if len(constraints) > 1:
        raise wrong("response_format", "an answer can have one constraint: the body has several")
    return constraints[0] if constraints else None


def _format(response_format: Mapping[str, Any]) -> Constraint | None:
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            return _ANY_OBJECT
        case "json_schema":
            return _named_schema(response_format.get("json_schema"))
        case str():
            raise UnsupportedValue(
                "response_format must be of type text, json_object or json_schema", field="response_format.type"
            )
        case _:
            raise wrong("response_format.type", "must be text, json_object or json_schema")


def _named_schema(wish: Any) -> Constraint:
    path = "response_format.json_schema"
    if not isinstance(wish, dict):
        raise wrong(path, "must be an object with name and schema")
    if not isinstance(wish.get("name"), str) or not wish["name"]:
        raise wrong(f"{path}.name", "must be a string")
    if not isinstance(wish.get("schema"), dict):
        raise wrong(f"{path}.schema", "must be a JSON schema: an object")
    return _schema(wish["schema"])


def _schema(schema: Mapping[str, Any]) -> JsonSchema:
    return JsonSchema(orjson.dumps(schema).decode())


def _extension(field: str, kind: str, wish: Any) -> Constraint | None:
    match kind, wish:
        case _, None:
            return None
        case "json", dict():
            return _schema(wish)
        case "json", str():
            return JsonSchema(wish)
        case "regex", str():
            return Regex(wish)
        case "choice", list() if all(isinstance(option, str) for option in wish):
            return Choice(tuple(wish))
        case (("json" | "regex" | "choice"), _):
            raise wrong(field, f"{kind} has a value of the wrong type")
        case _:
            raise UnsupportedValue(f"{field} knows json, regex and choice, not {kind[:40]}", field=field)
