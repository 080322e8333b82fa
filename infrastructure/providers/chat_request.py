"""A GenerationRequest in OpenAI's words, or a refusal that names what those words cannot say."""

from collections.abc import Mapping
from typing import Any

import orjson

from domain.constraint import AnyJson, Choice, Constraint, JsonSchema, Regex
from domain.errors import InvalidRequest, UnsupportedCapability, UnsupportedParameter
from domain.generation import GenerationRequest, SamplingParams
from domain.prompt import Chat, Continuation, FillInMiddle, Message, RawText, TokenIds
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode
from infrastructure.providers.entry import ProvidedModel

Json = dict[str, Any]

_ANY_OBJECT: Json = {"type": "object"}
_DEFAULT_WINDOW = SamplingParams().repeat_last_n


def request_to(model: ProvidedModel, request: GenerationRequest) -> tuple[str, Json]:
    """The path below the provider's base, and the body. Raises InvalidRequest and its kinds, with the field's name."""
    _refuse_what_cannot_be_said(model, request)
    path, prompt = _prompt(model, request.prompt)
    is_chat = path == "/chat/completions"
    body: Json = {
        "model": model.remote_name,
        **prompt,
        **_sampling(model, request.sampling, is_chat=is_chat),
        **_form(model, request.constraint, is_chat=is_chat),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.n > 1:
        body["n"] = request.n
    return path, body


def _refuse_what_cannot_be_said(model: ProvidedModel, request: GenerationRequest) -> None:
    if request.prompt_logprobs is not None:
        raise _not_there(model, "prompt_logprobs")
    if request.num_ctx and not 0 < model.context_length <= request.num_ctx:
        raise _not_there(model, "num_ctx")
    if request.shift_keeping is not None:
        raise _not_there(model, "shift")


def _not_there(model: ProvidedModel, name: str, reason: str = "") -> UnsupportedParameter:
    return UnsupportedParameter(
        f"{name} cannot be had from '{model.name}', which is a model of another server{reason}", field=name
    )


# -- what it reads -------------------------------------------------------------------------------------


def _prompt(model: ProvidedModel, prompt: object) -> tuple[str, Json]:
    match prompt:
        case Chat():
            return "/chat/completions", _chat(model, prompt)
        case RawText(text):
            return "/completions", {"prompt": text}
        case FillInMiddle(before, after):
            if "insert" not in model.capabilities:
                raise UnsupportedCapability(f"model '{model.name}' cannot fill in the middle", field="suffix")
            return "/completions", {"prompt": before, "suffix": after}
        case TokenIds():
            raise _not_there(model, "prompt", ": its tokens are not known here")
        case Continuation():
            raise _not_there(model, "context", ": its tokens are not known here")
    raise TypeError(f"no prompt: {type(prompt).__name__}")


def _chat(model: ProvidedModel, chat: Chat) -> Json:
    if chat.continue_final_message:
        raise _not_there(model, "continue_final_message")
    if not chat.add_generation_prompt:
        raise _not_there(model, "add_generation_prompt")
    return {
        "messages": [_message(message) for message in chat.messages],
        **_tools(model, chat),
        **_thinking(model, chat),
    }


def _message(message: Message) -> Json:
    said: Json = {"role": str(message.role), "content": message.content}
    if message.thinking:
        said["reasoning_content"] = message.thinking
    if message.tool_calls:
        said["tool_calls"] = [_call(call) for call in message.tool_calls]
        said["content"] = message.content or None
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        said["name"] = message.tool_name
    return said


def _call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tools(model: ProvidedModel, chat: Chat) -> Json:
    if not chat.tools:
        return {}
    if "tools" not in model.capabilities:
        raise UnsupportedCapability(f"model '{model.name}' does not call tools", field="tools")
    said: Json = {"tools": [_tool(tool) for tool in chat.tools]}
    if choice := _choice(chat.tool_choice):
        said["tool_choice"] = choice
    if not chat.parallel_tool_calls:
        said["parallel_tool_calls"] = False
    return said


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": orjson.loads(tool.parameters)}
    if tool.description:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> str | Json | None:
    """None where the provider's default says the same."""
    named = [{"type": "function", "function": {"name": name}} for name in choice.names]
    if choice.mode is ToolMode.NONE:
        return "none"
    if choice.mode is ToolMode.REQUIRED and len(named) == 1:
        return named[0]
    if named:
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode.value, "tools": named}}
    return "required" if choice.mode is ToolMode.REQUIRED else None


def _thinking(model: ProvidedModel, chat: Chat) -> Json:
    if "thinking" not in model.capabilities:
        if chat.think:
            raise UnsupportedCapability(f"model '{model.name}' does not think", field="think")
        return {}
    if chat.think is False:
        return {"reasoning_effort": "none"}
    effort = chat.reasoning_effort or ("medium" if chat.think else "")
    return {"reasoning_effort": effort} if effort else {}


# -- how it writes -------------------------------------------------------------------------------------


def _sampling(model: ProvidedModel, params: SamplingParams, *, is_chat: bool) -> Json:
    said: Json = {"temperature": params.temperature}
    standard: Mapping[str, tuple[Any, Any]] = {
        "top_p": (params.top_p, 1.0),
        "presence_penalty": (params.presence_penalty, 0.0),
        "frequency_penalty": (params.frequency_penalty, 0.0),
        "seed": (params.seed, None),
        model.provider.max_tokens_field if is_chat else "max_tokens": (params.max_tokens, None),
        "stop": (list(params.stop), []),
        "logit_bias": ({str(token): bias for token, bias in params.logit_bias}, {}),
    }
    said |= {name: value for name, (value, neutral) in standard.items() if value != neutral}
    if params.logprobs is not None:
        said |= {"logprobs": True, "top_logprobs": params.logprobs} if is_chat else {"logprobs": params.logprobs}
    return said | _extensions(model, params)


def _extensions(model: ProvidedModel, params: SamplingParams) -> Json:
    wishes: Mapping[str, tuple[Any, Any]] = {
        "top_k": (params.top_k, 0),
        "min_p": (params.min_p, 0.0),
        "typical_p": (params.typical_p, 1.0),
        "repetition_penalty": (params.repetition_penalty, 1.0),
        "min_tokens": (params.min_tokens, 0),
        "ignore_eos": (params.ignore_eos, False),
        "stop_token_ids": (list(params.stop_token_ids), []),
    }
    said = {name: value for name, (value, neutral) in wishes.items() if value != neutral}
    for name in said:
        _check_extension(model, name)
    if "repetition_penalty" in said and params.repeat_last_n not in (_DEFAULT_WINDOW, -1):
        raise _not_there(model, "repeat_last_n")
    return said


def _check_extension(model: ProvidedModel, name: str) -> None:
    if name not in model.provider.extensions:
        raise _not_there(model, name, f": name it in the extensions of '{model.provider.name}' if it honours it")


# -- what form the answer has --------------------------------------------------------------------------


def _form(model: ProvidedModel, constraint: Constraint | None, *, is_chat: bool) -> Json:
    match constraint:
        case None:
            return {}
        case Regex(pattern):
            return _structured(model, {"regex": pattern})
        case Choice(options):
            return _structured(model, {"choice": list(options)})
        case JsonSchema(text) if not is_chat:
            return _structured(model, {"json": orjson.loads(text)})
        case AnyJson() if not is_chat:
            return _structured(model, {"json": {}})
        case AnyJson():
            return {"response_format": {"type": "json_object"}}
        case JsonSchema(text):
            return {"response_format": _response_format(orjson.loads(text))}
    raise InvalidRequest("the constraint is of an unknown kind", field="constraint")


def _structured(model: ProvidedModel, form: Json) -> Json:
    if "structured_outputs" not in model.provider.extensions:
        raise _not_there(model, "constraint", f": name structured_outputs in the extensions of '{model.provider.name}'")
    return {"structured_outputs": form}


def _response_format(schema: Json) -> Json:
    if schema == _ANY_OBJECT:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
