"""Arguments as elements, `<parameter=KEY>` value `</parameter>`: the grammar of them by a schema, and their values."""

import json
from collections.abc import Mapping
from typing import Any

from domain.errors import InvalidRequest
from models.text.call_json import json_value
from models.text.marks import XML_PARAMETER, XML_PARAMETER_END

Schema = Mapping[str, Any]

_TYPES = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}
_MOST_REFERENCES = 16
_NOT_ENFORCED = ("format", "contentEncoding", "not", "allOf", "if")
_END = json.dumps(f"\n{XML_PARAMETER_END}")


def xml_arguments(rule: str, schema: Schema, options: Schema, *, is_strict: bool) -> list[str]:
    """Rules in Lark's notation, the first called `rule`_arguments: each property in the schema's order.

    Text stands as it is, anything else as JSON, which `options` are about. Raises InvalidRequest (field `tools`) for a
    property that cannot be enforced although `is_strict` says that it must be.
    """
    required = schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    order, rules = [], []
    for number, (key, value) in enumerate(_properties(schema).items()):
        if value is False:
            continue
        name = f"{rule}_{number}"
        order.append(name if key in needed else f"{name}?")
        if any(mark in key for mark in "<>\n"):
            raise InvalidRequest(f"this model's calls cannot hold a parameter named {key!r}", field="tools")
        opening = json.dumps(f"{XML_PARAMETER}{key}>\n", ensure_ascii=False)
        rules.append(f'{name}: {opening} {name}_value "\\n"')
        rules += _value_rules(f"{name}_value", _resolved(value, schema), schema, options, is_strict=is_strict)
    arguments = " ".join(order) or '""'
    return [f"{rule}_arguments: {arguments}", *rules]


def xml_values(values: Mapping[str, str], schema: Schema) -> dict[str, Any]:
    """What the texts of elements stand for."""
    properties = _properties(schema)
    return {key: _value_of(text, _resolved(properties.get(key), schema)) for key, text in values.items()}


def _value_rules(name: str, value: Any, schema: Schema, options: Schema, *, is_strict: bool) -> list[str]:
    types = _types_of(value)
    if not types <= {"string"}:
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        return [
            f"{name}: {name}_json {_END}",
            f"{name}_json: %json {json.dumps({**shared, **value, 'x-guidance': options})}",
        ]
    known = value if isinstance(value, dict) else {}
    if texts := [text for text in _constants(known) if isinstance(text, str)]:
        return [f"{name}: ({' | '.join(json.dumps(text, ensure_ascii=False) for text in texts)}) {_END}"]
    if is_strict and (beyond := [key for key in _NOT_ENFORCED if key in known]):
        raise InvalidRequest(f"'{beyond[0]}' of a text cannot be enforced in this model's calls", field="tools")
    return [f"{name}[suffix={_END}]: /{_regex_of(known, is_strict=is_strict)}/"]


def _regex_of(value: Schema, *, is_strict: bool) -> str:
    """Which texts are allowed; patterns are searched for, as schemas mean them."""
    pattern = value.get("pattern")
    if isinstance(pattern, str) and is_strict:
        start = "" if pattern.startswith("^") else "(?s:.*)"
        end = "" if pattern.endswith("$") and not pattern.endswith("\\$") else "(?s:.*)"
        inner = pattern.removeprefix("^")
        inner = inner if end else inner.removesuffix("$")
        return f"{start}({inner}){end}".replace("/", "\\/")
    least, most = value.get("minLength"), value.get("maxLength")
    low = least if isinstance(least, int) else 0
    return f"(?s:.{{{low},{most}}})" if isinstance(most, int) else f"(?s:.{{{low},}})" if low else "(?s:.*)"


def _value_of(text: str, schema: Any) -> Any:
    """Text where the schema says so or nothing, else JSON where it is such."""
    types = _types_of(schema)
    if types <= {"string"}:
        return text
    try:
        value = json_value(text)
    except ValueError:
        return text
    kind = _TYPES.get(type(value), "string")
    return value if kind in types or (kind == "integer" and "number" in types) else text


def _types_of(schema: Any) -> frozenset[str]:
    """The types of JSON that a value of `schema` may have; none where it says nothing of them."""
    if not isinstance(schema, dict):
        return frozenset()
    kind = schema.get("type")
    found = {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, list) else set()
    for name in ("anyOf", "oneOf"):
        options = schema.get(name)
        for option in options if isinstance(options, list) else ():
            found |= _types_of(option)
    if not found:
        found = {_TYPES.get(type(value), "string") for value in _constants(schema)}
    return frozenset(found)


def _constants(schema: Schema) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else []


def _properties(schema: Schema) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _resolved(value: Any, schema: Schema) -> Any:
    """What a local reference stands for; itself where it is none, or leads nowhere."""
    for _ in range(_MOST_REFERENCES):
        reference = value.get("$ref") if isinstance(value, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        found: Any = schema
        for step in reference[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if found is None:
            break
        value = found
    return value
