"""The parameters that a model may bring along, by Ollama's names: their types and ranges."""

from collections.abc import Mapping
from typing import Any

from domain.errors import InvalidRequest
from domain.generation import SamplingParams
from domain.model import MAX_CONTEXT_LENGTH
from domain.preset import ParameterValue

# The others are called here as they are in SamplingParams.
_SAMPLING = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
_NOT_SAMPLING = ("num_ctx", "num_keep")
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_INTEGERS = ("top_k", "repeat_last_n", "seed", "num_predict", "num_ctx", "num_keep")
_UNLIMITED = {"max_tokens": (-1, -2), "seed": (-1,)}


def checked_parameters(table: Mapping[str, object]) -> tuple[tuple[str, ParameterValue], ...]:
    """The parameters in `table`, sorted by name. Raises InvalidRequest with the name as its field."""
    parameters = tuple(sorted((name, _checked(name, value)) for name, value in table.items()))
    sampling: dict[str, Any] = {
        _SAMPLING.get(name, name): value for name, value in parameters if name not in _NOT_SAMPLING
    }
    for name, marks in _UNLIMITED.items():
        if sampling.get(name) in marks:
            del sampling[name]
    SamplingParams(**sampling)
    return parameters


def _checked(name: str, value: object) -> ParameterValue:
    if name == "stop":
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("stop must be a list of texts", field=name)
        return tuple(texts)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _FLOATS:
        if not is_number:
            raise InvalidRequest(f"{name} must be a number", field=name)
        return float(value)  # type: ignore[arg-type]  # is_number says so
    if name in _INTEGERS:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidRequest(f"{name} must be a whole number", field=name)
        if name == "num_ctx" and not 0 <= value <= MAX_CONTEXT_LENGTH:
            raise InvalidRequest(f"num_ctx must be between 0 and {MAX_CONTEXT_LENGTH}", field=name)
        return value
    known = ", ".join(sorted((*_FLOATS, *_INTEGERS, "stop")))
    raise InvalidRequest(f"{name[:80]} is not known; known are {known}", field=name[:80])
