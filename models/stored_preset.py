"""Presets as they lie in manifests: JSON, read back without trust."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from domain.preset import ParameterValue, Preset
from domain.prompt import Message, role_of
from domain.tools import ToolCall


def preset_document(preset: Preset) -> Mapping[str, Any]:
    """`preset` as a JSON object."""
    return {
        "system": preset.system,
        "parameters": dict(preset.parameters),
        "messages": [asdict(message) for message in preset.messages],
        "template": preset.template,
        "parent": preset.parent,
    }


def read_preset(document: Mapping[str, Any]) -> Preset:
    """The preset in a JSON object. Raises KeyError, TypeError, ValueError, InvalidRequest where it is none."""
    system = document["system"]
    if not isinstance(system, str | None):
        raise TypeError("the system text is no text")
    return Preset(
        system=system,
        parameters=tuple((str(name), _value(value)) for name, value in document["parameters"].items()),
        messages=tuple(_message(table) for table in document["messages"]),
        template=str(document["template"]),
        parent=str(document["parent"]),
    )


def _value(value: object) -> ParameterValue:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    raise TypeError("a parameter is neither a number nor a text nor a list of texts")


def _message(table: Mapping[str, Any]) -> Message:
    return Message(
        role=role_of(str(table["role"])),
        content=str(table["content"]),
        thinking=str(table["thinking"]),
        tool_calls=tuple(ToolCall(**call) for call in table["tool_calls"]),
        tool_call_id=str(table["tool_call_id"]),
        tool_name=str(table["tool_name"]),
    )
