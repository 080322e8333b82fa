"""The bodies of Ollama's `generate` and `chat` as far as the native API shares them, and what they ask of a model."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from pydantic import Field
from starlette.requests import Request

from api.bodies import Body
from api.go_templates import fill, fill_chat
from api.options import DOMAIN_NAMES, Options
from api.request_ids import request_id_of
from api.sampling import client_of, deadline_of
from api.services import Limits
from api.turns import ToolBodies, tool_choice_of, tools_of
from domain.constraint import Constraint, JsonSchema
from domain.errors import InvalidRequest, UnsupportedCapability
from domain.generation import MAX_TOP_LOGPROBS, GenerationRequest
from domain.model import ModelSpec, WeightFormat
from domain.preset import opened_by
from domain.prompt import Chat, Continuation, FillInMiddle, Message, Prompt, RawText, Role
from domain.tools import ToolMode

DEFAULT_SECONDS = 600.0
MAX_CONTEXT_IDS = 1 << 21
MAX_IMAGES = 64

_EFFORTS = ("low", "medium", "high")
_ANY_OBJECT = JsonSchema('{"type":"object"}')


class TextBody(Body):
    """What every request for text may say."""

    stream: bool | None = None
    format: Any = None
    think: Any = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: ToolBodies | None = None
    tool_choice: Any = None
    debug_render_only: bool | None = Field(None, alias="_debug_render_only")


class PromptBody(TextBody):
    """A prompt that is not a chat."""

    prompt: str | None = None
    suffix: str | None = None
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = None
    system: str | None = None
    template: str | None = None
    context: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(None, max_length=MAX_CONTEXT_IDS)
    raw: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write about: such a request loads or unloads the model."""
        return not (self.prompt or self.suffix or self.images)


# -- what the model must be able to do -----------------------------------------------------------------


def refuse_incapable(spec: ModelSpec, name: str, body: TextBody, *, suffix: bool = False, images: bool = False) -> None:
    """Raise UnsupportedCapability for what was asked of the model and it cannot do."""
    wanted = {
        "tools": bool(body.tools) and tool_choice_of(body.tool_choice).mode is not ToolMode.NONE,
        "insert": suffix,
        "vision": images,
    }
    fields = {"tools": "tools", "insert": "suffix", "vision": "images"}
    for capability, is_wanted in wanted.items():
        if is_wanted and capability not in spec.capabilities:
            raise UnsupportedCapability(f"{name} does not support {capability}", field=fields[capability])
    if _thinking(body.think)[0] and "thinking" not in spec.capabilities:
        raise UnsupportedCapability(f'"{name}" does not support thinking', field="think")


def _thinking(wish: Any) -> tuple[bool | None, str]:
    """Whether thinking is asked for (None: nothing is said), and how much of it."""
    if wish is None or isinstance(wish, bool):
        return wish, ""
    if not isinstance(wish, str):
        raise InvalidRequest("think must be true, false or a string", field="think")
    return wish != "none", wish if wish in _EFFORTS else ""


# -- the prompt -----------------------------------------------------------------------------------------


def chat_of(spec: ModelSpec, body: TextBody, messages: Sequence[Message]) -> Prompt:
    """A chat with what the model brings along; as plain text where the model has a template of its own."""
    preset = spec.preset
    opened = opened_by(preset, tuple(messages))
    if preset.template:
        if body.tools:
            raise UnsupportedCapability("the model's own template has no place for tools", field="tools")
        return RawText(fill_chat(preset.template, opened))
    return _chat(spec, body, opened)


def _chat(spec: ModelSpec, body: TextBody, messages: tuple[Message, ...]) -> Chat:
    think, effort = _thinking(body.think)
    return Chat(
        messages,
        tools=tools_of(body.tools),
        tool_choice=tool_choice_of(body.tool_choice),
        think=think is not False if "thinking" in spec.capabilities else None,
        reasoning_effort=effort,
    )


def prompt_of(spec: ModelSpec, body: PromptBody) -> Prompt:
    """The prompt of a body that is not empty. Raises InvalidRequest for fields that exclude each other."""
    prompt, suffix = body.prompt or "", body.suffix or ""
    if body.raw:
        return _raw(body)
    preset = spec.preset
    template = body.template or preset.template
    if suffix and not template:
        _refuse_beside("suffix", {"system": body.system, "context": body.context, "tools": body.tools})
        return FillInMiddle(prompt, suffix)
    system = (preset.system or "") if body.system is None else body.system
    if template:
        _refuse_beside("template", {"context": body.context, "tools": body.tools})
        return RawText(fill(template, system=system, prompt=prompt, suffix=suffix))
    opening = (Message(Role.SYSTEM, system),) if system or body.system is not None else ()
    chat = _chat(spec, body, (*opening, *preset.messages, Message(Role.USER, prompt)))
    return Continuation(tuple(body.context), chat) if body.context else chat


def _raw(body: PromptBody) -> RawText:
    if body.template or body.system or body.context:
        raise InvalidRequest("raw mode does not support template, system, or context", field="raw")
    _refuse_beside("raw", {"suffix": body.suffix, "tools": body.tools})
    return RawText(body.prompt or "")


def _refuse_beside(name: str, others: Mapping[str, Any]) -> None:
    for other, value in others.items():
        if value:
            raise InvalidRequest(f"{other} does not go with {name}", field=other)


# -- the request ----------------------------------------------------------------------------------------


def generation_request(
    request: Request,
    body: TextBody,
    prompt: Prompt,
    options: Options,
    limits: Limits,
    *,
    spec: ModelSpec,
    timeout: float | None = None,
    priority: int = 0,
) -> GenerationRequest:
    """The body as the domain has it. Raises InvalidRequest, with the domain's names for options."""
    return GenerationRequest(
        prompt,
        options.sampling(ceiling=limits.new_tokens, logprobs=_logprobs(body)),
        deadline_of(request, timeout, limits.generation_seconds or DEFAULT_SECONDS),
        request_id_of(request.scope),
        client=client_of(request),
        priority=priority,
        constraint=constraint_of(body.format),
        num_ctx=options.num_ctx,
        shift_keeping=options.num_keep if _shifts(body, spec) else None,
    )


def _shifts(body: TextBody, spec: ModelSpec) -> bool:
    """Whether an answer goes on beyond a full context: what nobody asked for is not asked of another server."""
    return spec.format is not WeightFormat.REMOTE if body.shift is None else body.shift


def in_options(error: InvalidRequest) -> InvalidRequest:
    """`error` in the words of the options where it is about one that the domain calls otherwise."""
    name = DOMAIN_NAMES.get(error.field or "")
    if name is None or type(error) is not InvalidRequest:
        return error
    return InvalidRequest(str(error).replace(error.field or "", name), field=name)


def constraint_of(wish: Any) -> Constraint | None:
    """The form that the answer must have: any JSON object, or what a schema allows."""
    match wish:
        case None | "":
            return None
        case "json":
            return _ANY_OBJECT
        case dict():
            return JsonSchema(orjson.dumps(wish).decode())
        case _:
            raise InvalidRequest('invalid format: expected "json" or a valid JSON Schema object', field="format")


def _logprobs(body: TextBody) -> int | None:
    wish = body.top_logprobs or 0
    if not 0 <= wish <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", field="top_logprobs")
    return wish if body.logprobs else None
