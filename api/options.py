"""Ollama's `options` object: what a request and its model say about how to write."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import structlog

from api.errors import InvalidFields, Problem
from api.sampling import new_tokens, seed_of, stop_strings
from domain.errors import InvalidRequest
from domain.generation import WHOLE_PROMPT, SamplingParams
from domain.model import ModelSpec, WeightFormat
from domain.preset import ParameterValue

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
    "num_keep": _INTEGER,
    # Checked and then left to the engine.
    "num_thread": _INTEGER,
    "num_gpu": _INTEGER,
    "main_gpu": _INTEGER,
    "num_batch": _INTEGER,
    "draft_num_predict": _INTEGER,
    "use_mmap": _BOOLEAN,
}


# Without an effect, whatever they say.
_WITHOUT_EFFECT = frozenset(
    (
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "numa",
        "penalize_newline",
        "tfs_z",
        "use_mlock",
        "vocab_only",
    )
)
_MAX_ECHO = 80

_log = structlog.get_logger("ingle.http")


@dataclass(frozen=True, slots=True)
class Options:
    """The options that have an effect, with Ollama's defaults. `num_ctx` 0 leaves the context as it is loaded.

    `num_keep` is how many tokens at the beginning of a prompt are kept when others must go; below 0 all are.
    """

    num_predict: int = -1
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    num_ctx: int = 0
    num_keep: int = 4

    def sampling(self, *, ceiling: int | None, logprobs: int | None = None) -> SamplingParams:
        """The same for the engine; `ceiling` bounds the new tokens. Raises InvalidRequest in the domain's names."""
        wish = None if self.num_predict in UNLIMITED else self.num_predict
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repeat_penalty,
            repeat_last_n=self.repeat_last_n,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=seed_of(self.seed),
            max_tokens=new_tokens(wish, ceiling),
            stop=stop_strings(self.stop),
            logprobs=logprobs,
        )


# The options whose names the domain does not share.
DOMAIN_NAMES = {"repetition_penalty": "repeat_penalty", "max_tokens": "num_predict"}


def parse_options(given: Mapping[str, Any] | None, spec: ModelSpec | None = None) -> Options:
    """What the request says, then what the model says, then the defaults.

    Types of known options are checked, unknown ones ignored with a warning. Raises InvalidFields naming every option
    of a wrong type, and InvalidRequest for a number that means nothing.
    """
    known = {name: value for name, value in (given or {}).items() if name in _TYPES and value is not None}
    wrong = [name for name, value in known.items() if not _has_type(value, _TYPES[name])]
    if wrong:
        texts = [f'option "{name}" must be of type {_TYPES[name]}' for name in wrong]
        problems = [Problem(("options", name), text) for name, text in zip(wrong, texts, strict=True)]
        raise InvalidFields(problems, texts[0])
    for name in sorted((given or {}).keys() - _TYPES.keys() - _WITHOUT_EFFECT):
        _log.warning("unknown option", option=name[:_MAX_ECHO])
    own = _own_of(spec)
    options = Options(
        **{one.name: value for one in fields(Options) if (value := _said(one.name, known, own)) is not None}
    )
    if options.num_ctx < 0:
        raise InvalidRequest("num_ctx must not be negative", field="options.num_ctx")
    if options.num_predict < min(UNLIMITED):
        raise InvalidRequest("num_predict must be -2, -1, or not negative", field="options.num_predict")
    return replace(options, num_keep=WHOLE_PROMPT) if options.num_keep < 0 else options


def parameters_of(given: Mapping[str, Any] | None) -> tuple[tuple[str, ParameterValue], ...]:
    """`given` as a model keeps it: the options that have an effect. Raises as a request with it would."""
    options = parse_options(given)
    options.sampling(ceiling=None)
    kept = {one.name: getattr(options, one.name) for one in fields(Options) if one.name in (given or {})}
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(kept.items())
        if value is not None
    )


def _own_of(spec: ModelSpec | None) -> Mapping[str, ParameterValue]:
    """What stands in for options that a request leaves open, before the defaults do."""
    if spec is None:
        return {}
    # A server that knows only the standard fields refuses top_k; what nobody asked for is not asked of it.
    unsaid = {"top_k": 0} if spec.format is WeightFormat.REMOTE else {}
    return {**unsaid, **dict(spec.preset.parameters)}


def _said(name: str, known: Mapping[str, Any], own: Mapping[str, ParameterValue]) -> Any:
    value = known.get(name, own.get(name))
    return list(value) if isinstance(value, tuple) else value


def _has_type(value: object, kind: str) -> bool:
    if kind == _BOOLEAN:
        return isinstance(value, bool)
    if kind == _ARRAY:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    if isinstance(value, bool):
        return False
    return isinstance(value, int) if kind == _INTEGER else isinstance(value, int | float)
