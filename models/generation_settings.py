"""How a model's makers want its words to be chosen, as `generation_config.json` beside its weights says."""

import logging
from collections.abc import Mapping
from typing import Any

from domain.errors import InvalidRequest
from domain.generation import SamplingParams
from domain.preset import ParameterValue, Preset

FILE = "generation_config.json"

# The file's names; those of Ollama's options; the domain's.
_NAMES = (
    ("temperature", "temperature", "temperature"),
    ("top_k", "top_k", "top_k"),
    ("top_p", "top_p", "top_p"),
    ("min_p", "min_p", "min_p"),
    ("typical_p", "typical_p", "typical_p"),
    ("repetition_penalty", "repeat_penalty", "repetition_penalty"),
)

log = logging.getLogger(__name__)


def preset_of(settings: Mapping[str, Any]) -> Preset:
    """The parameters that `settings` (the file's content) name, each in its range; others are logged and left out.

    Settings that do not sample (`do_sample` is not true) say nothing: they are the library's defaults.
    """
    if settings.get("do_sample") is not True:
        return Preset()
    parameters: list[tuple[str, ParameterValue]] = []
    for theirs, name, ours in _NAMES:
        value = settings.get(theirs)
        if isinstance(value, int | float) and not isinstance(value, bool) and _is_possible(ours, value):
            parameters.append((name, value))
        elif value is not None:
            log.warning("%s: %s has a value that is not possible here, and is left out", FILE, theirs)
    return Preset(parameters=tuple(parameters))


def _is_possible(name: str, value: float) -> bool:
    if name == "top_k" and not isinstance(value, int):
        return False
    try:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    except InvalidRequest:
        return False
    return True
