"""What chats and completions have in common: whom they ask, how the words are chosen, and how the answer comes."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from api.bodies import Body
from api.openai.reading import wrong
from api.sampling import bias_of, in_body, new_tokens, stop_strings
from domain.errors import InvalidRequest, UnsupportedCapability
from domain.generation import SamplingParams
from domain.preset import ParameterValue, Preset

DEFAULT_SECONDS = 600.0

_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
)
# The names that a model's own parameters have, beside those that are the same.
_PARAMETERS = {
    **{name: name for name in _FIELDS if name not in ("min_tokens", "ignore_eos")},
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repeat_last_n",
    "num_predict": "max_tokens",
    "stop": "stop",
}


class StreamOptions(Body):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None


class EngineOptions(Body):
    """The one option of the engine that a request may choose: how many tokens of context it may fill."""

    num_ctx: int | None = Field(None, ge=0)


class SamplingBody(Body):
    """The fields of both. Those without an effect here are not named; unknown ones are ignored."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    stop: Any = None
    stop_token_ids: list[int] | None = None
    seed: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    keep_alive: Any = None
    truncate: bool | None = None
    options: EngineOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream tells the usage in a chunk of its own."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def guided(self) -> dict[str, Any]:
        """What the fields `guided_*` say, by the kind of constraint."""
        guided = {"json": self.guided_json, "regex": self.guided_regex, "choice": self.guided_choice}
        return {kind: value for kind, value in guided.items() if value is not None}

    @property
    def constraint_field(self) -> str:
        """The field that the answer's constraint came from."""
        extensions = ("structured_outputs", "guided_json", "guided_regex", "guided_choice")
        return next((name for name in extensions if getattr(self, name) not in (None, {})), "response_format")


def sampling_of(
    body: SamplingBody, preset: Preset, *, max_tokens: int | None, ceiling: int | None, logprobs: int | None
) -> SamplingParams:
    """How words are chosen: by the body, else by the model's own parameters, else freely.

    `ceiling` is the operator's for new tokens. Raises InvalidRequest with the domain's name of the field.
    """
    chosen: dict[str, Any] = own_parameters(preset)
    chosen |= {name: value for name in _FIELDS if (value := getattr(body, name)) is not None}
    if body.stop is not None:
        chosen["stop"] = _stop(body.stop)
    if max_tokens is not None:
        chosen["max_tokens"] = max_tokens
    chosen["max_tokens"] = new_tokens(chosen.get("max_tokens"), ceiling)
    return SamplingParams(
        **chosen,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=bias_of(body.logit_bias),
        logprobs=logprobs,
    )


def own_parameters(preset: Preset) -> dict[str, Any]:
    """The parameters that a model brings along, as the domain names them; those that mean "no limit" left out."""
    parameters = {_PARAMETERS[name]: value for name, value in preset.parameters if name in _PARAMETERS}
    if isinstance(stop := parameters.get("stop"), str):
        parameters["stop"] = (stop,)
    for name in ("max_tokens", "seed"):
        if _is_negative(parameters.get(name)):
            del parameters[name]
    return dict(parameters)


def num_ctx_of(body: SamplingBody, preset: Preset) -> int:
    """The tokens of context that a request may fill; 0 is as many as there are."""
    if body.options is not None and body.options.num_ctx is not None:
        return body.options.num_ctx
    own = dict(preset.parameters).get("num_ctx")
    return own if isinstance(own, int) else 0


def in_this_dialect(error: InvalidRequest, body: SamplingBody, names: Mapping[str, str]) -> InvalidRequest:
    """`error` under the name that the body has for the field; `names` are those that differ or are a form's own."""
    same = (*_FIELDS, "n", "stop", "stop_token_ids", "logit_bias", "max_tokens")
    known = {
        **{name: name for name in same},
        "constraint": body.constraint_field,
        "num_ctx": "options.num_ctx",
        **names,
    }
    name = known.get(error.field or "")
    if isinstance(error, UnsupportedCapability) and name is not None:
        return UnsupportedCapability(str(error), field=name)
    return in_body(error, known)


def _is_negative(value: ParameterValue | None) -> bool:
    return isinstance(value, int) and value < 0


def _stop(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, str) or (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        return stop_strings(stop)
    raise wrong("stop", "must be a string or a list of strings")
