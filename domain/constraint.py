"""What form an answer must have. The engine enforces it or refuses the request; it never ignores it."""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from domain.errors import InvalidRequest

MAX_SOURCE_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_CHOICES = 1024

# A JSON text as far as its nesting goes: strings, whose brackets mean nothing, and brackets.
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class AnyJson:
    """One JSON value of any kind."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A JSON value that a schema allows; `schema` is JSON text, an object at its top, at most `MAX_DEPTH` deep."""

    schema: str

    def __post_init__(self) -> None:
        _check_size(self.schema)
        # Before the parser sees it, whose own answer to deep nesting is a RecursionError.
        if _depth_of(self.schema) > MAX_DEPTH:
            raise _refusal(f"the JSON schema must not be nested deeper than {MAX_DEPTH}")
        try:
            schema: Any = json.loads(self.schema, parse_constant=_refuse_constant)
        except ValueError as error:
            raise _refusal(f"the JSON schema is not valid JSON: {error}") from None
        if not isinstance(schema, dict):
            raise _refusal("the JSON schema must be a JSON object")


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that a regular expression matches from its beginning to its end."""

    pattern: str

    def __post_init__(self) -> None:
        _check_size(self.pattern)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several texts, word for word."""

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.options) <= MAX_CHOICES:
            raise _refusal(f"a choice must have 1 to {MAX_CHOICES} options")
        if not all(self.options):
            raise _refusal("an option of a choice must not be empty")
        _check_size("".join(self.options))


Constraint = AnyJson | JsonSchema | Regex | Choice


def _check_size(source: str) -> None:
    if not source:
        raise _refusal("the constraint must not be empty")
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise _refusal("the constraint holds a lone surrogate, which is no character") from None
    if size > MAX_SOURCE_BYTES:
        raise _refusal(f"the constraint has {size} bytes and may have at most {MAX_SOURCE_BYTES}")


def _depth_of(text: str) -> int:
    depth = deepest = 0
    for match in _NESTING.finditer(text):
        if match[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in "]}":
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="constraint")
