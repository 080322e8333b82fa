"""The body of POST /v1/chat/completions, and how it becomes a GenerationRequest."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from starlette.requests import Request

from api.openai.constraints import constraint_of
from api.openai.messages import messages_of
from api.openai.reading import wrong
from api.openai.sampling_body import DEFAULT_SECONDS, SamplingBody, in_this_dialect, num_ctx_of, sampling_of
from api.openai.tools import function_call_of, functions_of, tool_choice_of, tools_of
from api.request_ids import request_id_of
from api.sampling import client_of, deadline_of, refuse_unless_neutral
from api.services import Limits
from domain.errors import InvalidRequest
from domain.generation import MAX_TOP_LOGPROBS, GenerationRequest
from domain.model import ModelSpec
from domain.preset import opened_by
from domain.prompt import Chat

_NOT_OFFERED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "chat_template": (),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "web_search_options": (),
}
_TEMPLATE_ARGUMENTS = ("enable_thinking", "reasoning_effort")
# It may reach a chat template, so it is a plain word.
_EFFORT = re.compile(r"[A-Za-z0-9_-]{1,32}")


class ChatBody(SamplingBody):
    """A chat, and how to go on from it."""

    messages: list[Any]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def has_old_tools(self) -> bool:
        """Whether tools are named in their old form, and calls are wanted in it."""
        return bool(self.functions) and not self.tools


def refuse_what_is_not_offered(raw: Mapping[str, Any]) -> None:
    """Raise UnsupportedParameter for what would change the answer and cannot be honoured."""
    refuse_unless_neutral(raw, _NOT_OFFERED)


def generation_request(request: Request, body: ChatBody, spec: ModelSpec, limits: Limits) -> GenerationRequest:
    """The body as the domain has it, with the defaults that `spec` brings along.

    Raises InvalidRequest (and its kinds) naming the body's field.
    """
    try:
        wish = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        return GenerationRequest(
            _chat(body, spec),
            sampling_of(body, spec.preset, max_tokens=wish, ceiling=limits.new_tokens, logprobs=_logprobs(body)),
            deadline_of(request, None, limits.generation_seconds or DEFAULT_SECONDS),
            request_id_of(request.scope),
            client=client_of(request),
            n=1 if body.n is None else body.n,
            constraint=constraint_of(body.response_format, body.structured_outputs, body.guided),
            num_ctx=num_ctx_of(body, spec.preset),
        )
    except InvalidRequest as error:
        raise in_chat(error, body) from None


def in_chat(error: InvalidRequest, body: ChatBody) -> InvalidRequest:
    """`error` under the name that the body has for the field."""
    names = {
        "max_tokens": "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        "logprobs": "top_logprobs",
        "messages": "messages",
        "tools": "functions" if body.has_old_tools else "tools",
        "tool_choice": "function_call" if body.has_old_tools else "tool_choice",
        "think": "chat_template_kwargs" if body.reasoning_effort is None else "reasoning_effort",
        "continue_final_message": "continue_final_message",
    }
    return in_this_dialect(error, body, names)


def _chat(body: ChatBody, spec: ModelSpec) -> Chat:
    goes_on = bool(body.continue_final_message)
    if goes_on and body.add_generation_prompt:
        raise wrong("add_generation_prompt", "does not go with continue_final_message")
    if body.has_old_tools:
        tools, choice, parallel = functions_of(body.functions or ()), function_call_of(body.function_call), False
    else:
        tools, choice = tools_of(body.tools or ()), tool_choice_of(body.tool_choice)
        parallel = body.parallel_tool_calls is not False
    think, effort = _reasoning(body, can_think="thinking" in spec.capabilities)
    messages = messages_of(body.messages)
    return Chat(
        opened_by(spec.preset, messages) if messages else (),
        tools,
        choice,
        parallel_tool_calls=parallel,
        think=think,
        reasoning_effort=effort,
        add_generation_prompt=not goes_on and body.add_generation_prompt is not False,
        continue_final_message=goes_on,
    )


def _reasoning(body: ChatBody, *, can_think: bool) -> tuple[bool | None, str]:
    """Whether to think, and how hard; a wish for effort alone means nothing to a model that does not think."""
    arguments = {name: value for name, value in (body.chat_template_kwargs or {}).items() if value is not None}
    for name in arguments:
        if name not in _TEMPLATE_ARGUMENTS:
            raise wrong("chat_template_kwargs", f"knows {' and '.join(_TEMPLATE_ARGUMENTS)}, not {name[:40]}")
    enabled = arguments.get("enable_thinking")
    if not isinstance(enabled, bool | None):
        raise wrong("chat_template_kwargs.enable_thinking", "must be true or false")
    effort = _effort("chat_template_kwargs.reasoning_effort", arguments.get("reasoning_effort"))
    effort = _effort("reasoning_effort", body.reasoning_effort) or effort
    if enabled is None and effort and can_think:
        enabled = effort != "none"
    elif enabled is False and not can_think:
        enabled = None
    return enabled, effort if enabled and can_think and effort != "none" else ""


def _effort(path: str, effort: Any) -> str:
    if effort is None:
        return ""
    if not isinstance(effort, str) or not _EFFORT.fullmatch(effort):
        raise wrong(path, "must be a word such as none, low, medium or high")
    return effort


def _logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise wrong("top_logprobs", "goes with logprobs: true")
    return (body.top_logprobs or 0) if body.logprobs else None
