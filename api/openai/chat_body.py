"""The body of POST /v1/chat/completions, and how it becomes a GenerationRequest."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from starlette.requests import Request

from api.bodies import Body
from api.errors import InvalidFields, Problem
from api.openai.constraints import constraint_of
from api.openai.messages import chat_of
from api.request_ids import request_id_of
from api.sampling import client_of, deadline_of, in_body, new_tokens, refuse_unless_neutral, stop_strings
from api.services import Limits
from domain.errors import InvalidRequest
from domain.generation import MAX_TOP_LOGPROBS, GenerationRequest, SamplingParams

DEFAULT_SECONDS = 600.0

NOT_OFFERED: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate": (False,),
    "web_search_options": (),
}
# The names that this dialect has for the domain's fields.
_NAMES = {
    name: name
    for name in (
        "frequency_penalty",
        "logit_bias",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    )
}


class StreamOptions(Body):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None


class EngineOptions(Body):
    """The one option of the engine that a request may choose: how many tokens of context it may fill."""

    num_ctx: int | None = Field(None, ge=0)


class ChatBody(Body):
    """A chat, and how to go on from it. Fields without an effect here are not named; unknown ones are ignored."""

    model: str = Field(min_length=1)
    messages: list[Any]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
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
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    keep_alive: Any = None
    options: EngineOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream tells the usage in a chunk of its own."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def refuse_what_is_not_offered(raw: Mapping[str, Any]) -> None:
    """Raise UnsupportedParameter for what would change the answer and cannot be honoured."""
    refuse_unless_neutral(raw, NOT_OFFERED)


def generation_request(request: Request, body: ChatBody, limits: Limits) -> GenerationRequest:
    """The body as the domain has it. Raises InvalidRequest (and its kinds) naming the body's field."""
    try:
        return GenerationRequest(
            chat_of(body.messages),
            _sampling(body, limits.new_tokens),
            deadline_of(request, None, limits.generation_seconds or DEFAULT_SECONDS),
            request_id_of(request.scope),
            client=client_of(request),
            n=1 if body.n is None else body.n,
            constraint=constraint_of(body.response_format, body.structured_outputs, _guided(body)),
        )
    except InvalidRequest as error:
        raise in_this_dialect(error, body) from None


def in_this_dialect(error: InvalidRequest, body: ChatBody) -> InvalidRequest:
    """`error` under the name that the body has for the field."""
    names = {
        **_NAMES,
        "constraint": _constraint_field(body),
        "max_tokens": "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        "logprobs": "top_logprobs",
    }
    return in_body(error, names)


def _constraint_field(body: ChatBody) -> str:
    """The field that the constraint came from."""
    extensions = ("structured_outputs", "guided_json", "guided_regex", "guided_choice")
    return next((name for name in extensions if getattr(body, name) not in (None, {})), "response_format")


def _sampling(body: ChatBody, ceiling: int | None) -> SamplingParams:
    wish = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    chosen = {
        name: value
        for name in (
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
        if (value := getattr(body, name)) is not None
    }
    return SamplingParams(
        **chosen,
        max_tokens=new_tokens(wish, ceiling),
        stop=_stop(body.stop),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_bias(body.logit_bias or {}),
        logprobs=_logprobs(body),
    )


def _stop(stop: Any) -> tuple[str, ...]:
    if stop is None or isinstance(stop, str) or (isinstance(stop, list) and all(isinstance(s, str) for s in stop)):
        return stop_strings(stop)
    raise InvalidFields([Problem(("stop",), "must be a string or a list of strings")])


def _bias(bias: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Pairs of token id and bias; those of 0 do nothing and are not looked at."""
    pairs = [(token, value) for token, value in bias.items() if value]
    if not all(token.isascii() and token.isdecimal() and len(token) <= 9 for token, _ in pairs):
        raise InvalidFields([Problem(("logit_bias",), "its keys must be token ids, written as numbers")])
    return tuple((int(token), value) for token, value in pairs)


def _logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidFields([Problem(("top_logprobs",), "goes with logprobs: true")])
    return (body.top_logprobs or 0) if body.logprobs else None


def _guided(body: ChatBody) -> dict[str, Any]:
    guided = {"json": body.guided_json, "regex": body.guided_regex, "choice": body.guided_choice}
    return {kind: value for kind, value in guided.items() if value is not None}
