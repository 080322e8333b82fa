"""A model's own settings as the text of a Modelfile."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from domain.prompt import Message

_COLUMN = 30


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """A line for each value: the name in thirty columns, a space, the value; strings are quoted."""
    return "\n".join(f"{name:<{_COLUMN}} {value}" for name, value in _lines(parameters))


def modelfile(name: str, template: str, system: str, parameters: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """What would make a model like this one: it starts from the model itself, never from a path.

    `template` is the model's own one, if it has any; the chat template of its files is not of Ollama's kind.
    """
    lines = [f"FROM {name}"]
    if template:
        lines.append(f"TEMPLATE {_quoted_block(template)}")
    if system:
        lines.append(f"SYSTEM {_quoted_block(system)}")
    lines += [f"PARAMETER {parameter} {value}" for parameter, value in _lines(parameters)]
    lines += [f"MESSAGE {message.role} {_quoted_block(message.content)}" for message in messages]
    return "\n".join(lines) + "\n"


def _lines(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(parameters.items()):
        for one in value if isinstance(value, list | tuple) else (value,):
            yield name, _value(one)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return str(value)


def _quoted_block(text: str) -> str:
    return f'"""{text}"""'
