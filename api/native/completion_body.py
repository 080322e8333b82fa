"""The completion form's body, and how it becomes a GenerationRequest."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request

from api.bodies import Body
from api.errors import InvalidFields, Problem
from api.native.options import Options
from api.request_ids import request_id_of
from api.sampling import deadline_of, in_body, new_tokens, refuse_unless_neutral, seed_of, stop_strings
from api.services import Limits
from domain.errors import InvalidRequest
from domain.generation import MAX_STOP_STRINGS, GenerationRequest, SamplingParams
from domain.prompt import Chat, Continuation, Message, Prompt, RawText, Role

DEFAULT_SECONDS = 600.0
MAX_MESSAGES = 1024
MAX_CONTEXT_IDS = 1 << 21

NOT_OFFERED: Mapping[str, tuple[Any, ...]] = {
    "_debug_render_only": (False,),
    "format": ("",),
    "images": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "shift": (False,),
    "suffix": ("",),
    "template": ("",),
    "think": (False, "none"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate": (False,),
}
NOT_OFFERED_IN_MESSAGES: Mapping[str, tuple[Any, ...]] = {"images": ([],), "thinking": ("",), "tool_calls": ([],)}


class MessageBody(Body):
    """One turn of a chat."""

    role: str
    content: str | None = None
    images: Any = None
    thinking: Any = None
    tool_calls: Any = None


class CompletionBody(Body):
    """A prompt or a chat, and how to go on from it."""

    model: str | None = None
    model_id: str | None = None
    prompt: str | None = None
    messages: list[MessageBody] | None = Field(None, max_length=MAX_MESSAGES)
    system: str | None = None
    context: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(None, max_length=MAX_CONTEXT_IDS)
    raw: bool | None = None
    stream: bool | None = None
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    timeout: float | None = None
    priority: int | None = Field(None, ge=-10, le=10)


def refuse_what_is_not_offered(raw: Mapping[str, Any]) -> None:
    """Raise UnsupportedParameter for what would change the answer and cannot be honoured."""
    refuse_unless_neutral(raw, NOT_OFFERED)
    for message in raw.get("messages") or ():
        refuse_unless_neutral(message, NOT_OFFERED_IN_MESSAGES)


def generation_request(request: Request, body: CompletionBody, options: Options, limits: Limits) -> GenerationRequest:
    """The body as the domain has it. It must hold a prompt or messages."""
    return GenerationRequest(
        prompt_of(body),
        sampling_of(body, options, limits.new_tokens),
        deadline_of(request, body.timeout, limits.generation_seconds or DEFAULT_SECONDS),
        request_id_of(request.scope),
    )


def prompt_of(body: CompletionBody) -> Prompt:
    """Chat, raw text, or the continuation of an earlier answer."""
    if body.messages is not None:
        _refuse_beside_messages(body)
        return Chat(_messages(body.messages, body.system))
    prompt = body.prompt or ""
    if not prompt:
        raise InvalidFields([Problem(("prompt",), "must not be empty")])
    if body.raw:
        if body.system is not None or body.context:
            raise InvalidRequest("raw mode does not support template, system, or context", field="raw")
        return RawText(prompt)
    system = () if body.system is None else (Message(Role.SYSTEM, body.system),)
    chat = Chat((*system, Message(Role.USER, prompt)))
    return Continuation(tuple(body.context), chat) if body.context else chat


def _refuse_beside_messages(body: CompletionBody) -> None:
    given = {"prompt": body.prompt is not None, "raw": bool(body.raw), "context": bool(body.context)}
    problems = [Problem((name,), "goes with prompt, not with messages") for name, is_given in given.items() if is_given]
    if problems:
        raise InvalidFields(problems)


def _messages(bodies: list[MessageBody], system: str | None) -> tuple[Message, ...]:
    messages = tuple(_message(index, body) for index, body in enumerate(bodies))
    if system is None:
        return messages
    if messages and messages[0].role is Role.SYSTEM:
        raise InvalidFields([Problem(("system",), "the messages begin with a system message already")])
    return (Message(Role.SYSTEM, system), *messages)


def _message(index: int, body: MessageBody) -> Message:
    try:
        role = Role(body.role.lower())
    except ValueError:
        known = ", ".join(Role)
        raise InvalidFields([Problem(("messages", index, "role"), f"must be one of {known}")]) from None
    return Message(role, body.content or "")


def sampling_of(body: CompletionBody, options: Options, ceiling: int | None) -> SamplingParams:
    """Fields of the body outrank their namesakes in `options`, and those the defaults."""
    names = {
        "max_tokens": _wish_of_length(body)[0] or "options.num_predict",
        "repetition_penalty": "options.repeat_penalty",
        **{name: f"options.{name}" for name in ("min_p", "repeat_last_n", "presence_penalty", "frequency_penalty")},
        **{
            name: name if getattr(body, name) is not None else f"options.{name}"
            for name in ("temperature", "top_k", "top_p", "seed", "stop")
        },
    }
    wish = _wish_of_length(body)[1]
    try:
        return SamplingParams(
            temperature=options.temperature if body.temperature is None else body.temperature,
            top_k=options.top_k if body.top_k is None else body.top_k,
            top_p=options.top_p if body.top_p is None else body.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repeat_penalty,
            repeat_last_n=options.repeat_last_n,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            seed=seed_of(options.seed if body.seed is None else body.seed),
            max_tokens=new_tokens(options.max_tokens() if wish is None else wish, ceiling),
            stop=stop_strings(options.stop if body.stop is None else body.stop),
        )
    except InvalidRequest as error:
        raise in_body(error, names) from None


def _wish_of_length(body: CompletionBody) -> tuple[str | None, int | None]:
    """The field that says how many new tokens are wanted, and what it says."""
    given = {"max_tokens": body.max_tokens, "max_length": body.max_length}
    named = {name: value for name, value in given.items() if value is not None}
    if len(set(named.values())) > 1:
        raise InvalidFields([Problem(("max_length",), "max_tokens and max_length have different values")])
    return next(iter(named.items()), (None, None))
