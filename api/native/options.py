"""Ollama's `options` object, as the completion form takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from api.errors import InvalidFields, Problem
from domain.errors import InvalidRequest, UnsupportedParameter

UNLIMITED = (-1, -2)

_INTEGER = "integer"
_FLOAT = "float32"
_BOOLEAN = "boolean"
_ARRAY = "array"

_TYPES = {
    "num_predict": _INTEGER,
    "temperature": _FLOAT,
    "top_k": _INTEGER,
    "top_p": _FLOAT,
    "min_p": _FLOAT,
    "typical_p": _FLOAT,
    "repeat_penalty": _FLOAT,
    "repeat_last_n": _INTEGER,
    "presence_penalty": _FLOAT,
    "frequency_penalty": _FLOAT,
    "seed": _INTEGER,
    "stop": _ARRAY,
    "num_ctx": _INTEGER,
    # Checked and then left to the engine, or of no effect because nothing is truncated or shifted here.
    "num_keep": _INTEGER,
    "num_thread": _INTEGER,
    "num_gpu": _INTEGER,
    "main_gpu": _INTEGER,
    "num_batch": _INTEGER,
    "draft_num_predict": _INTEGER,
    "use_mmap": _BOOLEAN,
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options that have an effect, with Ollama's defaults. `num_ctx` 0 leaves the context as it is loaded."""

    num_predict: int = -1
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    num_ctx: int = 0

    def max_tokens(self) -> int | None:
        """New tokens, or None for as many as there is room for."""
        return None if self.num_predict in UNLIMITED else self.num_predict


def parse_options(given: Mapping[str, Any] | None) -> Options:
    """Check the types of known options and ignore unknown ones.

    Raises InvalidFields naming every option of a wrong type, UnsupportedParameter for one that cannot be honoured.
    """
    known = {name: value for name, value in (given or {}).items() if name in _TYPES and value is not None}
    problems = [
        Problem(("options", name), f'option "{name}" must be of type {_TYPES[name]}')
        for name, value in known.items()
        if not _has_type(value, _TYPES[name])
    ]
    if problems:
        raise InvalidFields(problems)
    if known.get("typical_p", 1) != 1:
        raise UnsupportedParameter("typical_p is not offered yet: leave it out", field="options.typical_p")
    options = Options(**{field.name: known[field.name] for field in fields(Options) if field.name in known})
    if options.num_ctx < 0:
        raise InvalidRequest("num_ctx must not be negative", field="options.num_ctx")
    if options.num_predict < min(UNLIMITED):
        raise InvalidRequest("num_predict must be -2, -1, or not negative", field="options.num_predict")
    return options


def _has_type(value: object, kind: str) -> bool:
    if kind == _BOOLEAN:
        return isinstance(value, bool)
    if kind == _ARRAY:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    if isinstance(value, bool):
        return False
    return isinstance(value, int) if kind == _INTEGER else isinstance(value, int | float)
