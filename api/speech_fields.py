"""Options of speech out of a form, a query string, JSON, or two of them together."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

from api.bodies import seconds_or_text, validate
from api.errors import InvalidFields, Problem
from api.speech_options import ListeningOptions

Options = TypeVar("Options", bound=ListeningOptions)

_OTHER_NAMES = {"initial_prompt": "prompt", "keywords": "hotwords", "model_id": "model"}
_LISTS = frozenset(
    (
        "hotwords",
        "languages",
        "temperature",
        "clip_timestamps",
        "timestamp_granularities",
        "include",
        "known_speaker_names",
        "known_speaker_references",
    )
)
# Here null turns a gate off; elsewhere it means that nothing was said.
_GATES = frozenset(("compression_ratio_threshold", "log_prob_threshold", "no_speech_threshold"))
_EMPTY_SAYS_SOMETHING = frozenset(("language", "prompt"))


def options_of(
    kind: type[Options],
    *,
    form: Sequence[tuple[str, str]] = (),
    query: Sequence[tuple[str, str]] = (),
    body: Mapping[str, Any] | None = None,
) -> Options:
    """The options that a form, a query string and a JSON object name; one name with two values is refused.

    Lists may be repeated fields or comma-separated. Raises InvalidFields.
    """
    sources = [validate(kind, _gathered(pairs), strict=False) for pairs in (form, query) if pairs]
    if body is not None:
        sources.append(validate(kind, _named(body)))
    if not sources:
        return validate(kind, {})
    return reduce(_both, sources)


def _both(first: Options, second: Options) -> Options:
    for name in first.model_fields_set & second.model_fields_set:
        if getattr(first, name) != getattr(second, name):
            raise InvalidFields([Problem((name,), "is given twice, with different values")])
    return first.model_copy(update={name: getattr(second, name) for name in second.model_fields_set})


def _plain_name(name: str) -> str:
    name = name.removesuffix("[]")
    return _OTHER_NAMES.get(name, name)


def _gathered(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        plain = _plain_name(name)
        if value != "" or plain in _EMPTY_SAYS_SOMETHING:
            values.setdefault(plain, []).append(value)
    gathered: dict[str, Any] = {}
    for name, several in values.items():
        if name in _LISTS:
            gathered[name] = several if len(several) > 1 else several[0]
        elif len(set(several)) > 1:
            raise InvalidFields([Problem((name,), "is given twice, with different values")])
        else:
            gathered[name] = seconds_or_text(several[0]) if name == "keep_alive" else several[0]
    return gathered


def _named(body: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for given, value in body.items():
        name = _plain_name(given)
        if value is None and name not in _GATES:
            continue
        if name in named and named[name] != value:
            raise InvalidFields([Problem((name,), "is given twice, with different values")])
        named[name] = value
    return named
