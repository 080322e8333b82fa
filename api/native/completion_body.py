"""The completion form's body, and how it becomes a GenerationRequest."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request

from api.errors import InvalidFields, Problem
from api.options import Options
from api.sampling import bias_of, in_body
from api.services import Limits
from api.text_body import PromptBody, chat_of, generation_request, prompt_of, refuse_incapable
from api.turns import MessageBodies, has_images, messages_of
from domain.errors import InvalidRequest
from domain.generation import MAX_STOP_STRINGS, GenerationRequest
from domain.model import ModelSpec
from domain.prompt import Message, Prompt, Role

# Fields that outrank their namesakes in `options`.
_OUTRANKING = ("temperature", "top_p", "top_k", "stop", "seed")


class CompletionBody(PromptBody):
    """A prompt or a chat, and how to go on from it: Ollama's `generate`, and what this API adds."""

    model: str | None = None
    model_id: str | None = None
    messages: MessageBodies | None = None
    keep_alive: float | str | None = None
    max_tokens: int | None = None
    max_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    timeout: float | None = None
    priority: int | None = Field(None, ge=-10, le=10)
    logit_bias: dict[str, float] | None = None

    @property
    def asks_for_nothing(self) -> bool:
        """Whether the body only names a model, to bring it in or let it go."""
        return self.prompt is None and self.suffix is None and self.messages is None


def completion_request(
    request: Request, spec: ModelSpec, name: str, body: CompletionBody, options: Options, limits: Limits
) -> GenerationRequest:
    """The body as the domain has it. It must ask for something.

    Raises InvalidRequest (and its kinds) naming the body's field.
    """
    images = bool(body.images) or has_images(body.messages or ())
    refuse_incapable(spec, name, body, suffix=bool(body.suffix) and not body.raw, images=images)
    try:
        wish = generation_request(
            request,
            body,
            _prompt(spec, body),
            _outranked(options, body),
            limits,
            spec=spec,
            timeout=body.timeout,
            priority=body.priority or 0,
        )
        return replace(wish, sampling=replace(wish.sampling, logit_bias=bias_of(body.logit_bias)))
    except InvalidRequest as error:
        raise in_body(error, _names(body)) from None


def _prompt(spec: ModelSpec, body: CompletionBody) -> Prompt:
    if body.messages is not None:
        _refuse_beside_messages(body)
        return chat_of(spec, body, _opened(messages_of(body.messages), body.system))
    if body.is_empty:
        raise InvalidFields([Problem(("prompt",), "must not be empty")])
    return prompt_of(spec, body)


def _refuse_beside_messages(body: CompletionBody) -> None:
    given = {
        "prompt": body.prompt is not None,
        "suffix": bool(body.suffix),
        "template": bool(body.template),
        "images": bool(body.images),
        "raw": bool(body.raw),
        "context": bool(body.context),
    }
    problems = [Problem((name,), "goes with prompt, not with messages") for name, is_given in given.items() if is_given]
    if problems:
        raise InvalidFields(problems)


def _opened(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    if system is None:
        return messages
    if messages and messages[0].role is Role.SYSTEM:
        raise InvalidFields([Problem(("system",), "the messages begin with a system message already")])
    return (Message(Role.SYSTEM, system), *messages)


def _outranked(options: Options, body: CompletionBody) -> Options:
    """The options, with what the body itself says."""
    given: dict[str, Any] = {name: value for name in _OUTRANKING if (value := getattr(body, name)) is not None}
    length = _wish_of_length(body)[1]
    if length is not None:
        if length < 0:
            raise InvalidRequest("max_tokens must not be negative", field="max_tokens")
        given["num_predict"] = length
    return replace(options, **given)


def _names(body: CompletionBody) -> dict[str, str]:
    """Where the body has what the domain complains about."""
    return {
        "max_tokens": _wish_of_length(body)[0] or "options.num_predict",
        "repetition_penalty": "options.repeat_penalty",
        "constraint": "format",
        "logit_bias": "logit_bias",
        **{
            name: f"options.{name}"
            for name in ("min_p", "typical_p", "repeat_last_n", "presence_penalty", "frequency_penalty")
        },
        **{name: name if getattr(body, name) is not None else f"options.{name}" for name in _OUTRANKING},
    }


def _wish_of_length(body: CompletionBody) -> tuple[str | None, int | None]:
    """The field that says how many new tokens are wanted, and what it says."""
    given = {"max_tokens": body.max_tokens, "max_length": body.max_length}
    named = {name: value for name, value in given.items() if value is not None}
    if len(set(named.values())) > 1:
        raise InvalidFields([Problem(("max_length",), "max_tokens and max_length have different values")])
    return next(iter(named.items()), (None, None))
