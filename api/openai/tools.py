"""Tools and calls of them: JSON of this dialect, in its present and its old form, as the domain has them and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from api.errors import UnsupportedValue
from api.openai.reading import wrong
from domain.errors import InvalidRequest
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode

Json = dict[str, Any]

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


# -- what may be called -------------------------------------------------------------------------------


def tools_of(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """The list `tools`. Raises InvalidRequest (and its kinds) naming the field as a path."""
    return tuple(_tool(f"tools.{index}", tool) for index, tool in enumerate(tools))


def functions_of(functions: Sequence[Any]) -> tuple[Tool, ...]:
    """The old list `functions`."""
    return tuple(_function(f"functions.{index}", function) for index, function in enumerate(functions))


def _tool(path: str, tool: Any) -> Tool:
    if not isinstance(tool, dict):
        raise wrong(path, "must be an object")
    refuse_other_types(path, tool)
    return _function(f"{path}.function", tool.get("function"))


def _function(path: str, function: Any) -> Tool:
    if not isinstance(function, dict):
        raise wrong(path, "must be an object with a name")
    name = named(path, function)
    description, parameters, strict = (function.get(key) for key in ("description", "parameters", "strict"))
    if not isinstance(description, str | None):
        raise wrong(f"{path}.description", "must be a string")
    if not isinstance(parameters, dict | None):
        raise wrong(f"{path}.parameters", "must be a JSON schema: an object")
    if not isinstance(strict, bool | None):
        raise wrong(f"{path}.strict", "must be true or false")
    schema = orjson.dumps(parameters or _NO_PARAMETERS).decode()
    try:
        return Tool(name, description or "", schema, strict=bool(strict))
    except InvalidRequest as error:
        raise wrong(path, str(error)) from None


# -- whether it must be -------------------------------------------------------------------------------


def tool_choice_of(choice: Any) -> ToolChoice:
    """The field `tool_choice`; None is `auto`."""
    match choice:
        case None:
            return ToolChoice()
        case str():
            return ToolChoice(_mode("tool_choice", choice))
        case {"type": "function"}:
            return ToolChoice(ToolMode.REQUIRED, (named("tool_choice.function", choice.get("function")),))
        case {"type": "allowed_tools"}:
            return _allowed(choice.get("allowed_tools"))
        case {"type": str(kind)}:
            raise UnsupportedValue(
                f"tool_choice must be of type function or allowed_tools, not '{kind[:40]}'", field="tool_choice.type"
            )
        case _:
            raise wrong("tool_choice", "must be none, auto, required, or an object with a type")


def _allowed(allowed: Any) -> ToolChoice:
    path = "tool_choice.allowed_tools"
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
        raise wrong(path, "must be an object with mode and tools")
    if allowed.get("mode") not in ("auto", "required"):
        raise wrong(f"{path}.mode", "must be auto or required")
    names = []
    for index, tool in enumerate(allowed["tools"]):
        at = f"{path}.tools.{index}"
        if not isinstance(tool, dict):
            raise wrong(at, "must be an object")
        refuse_other_types(at, tool)
        names.append(named(f"{at}.function", tool.get("function")))
    return ToolChoice(ToolMode(allowed["mode"]), tuple(dict.fromkeys(names)))


def function_call_of(choice: Any) -> ToolChoice:
    """The old field `function_call`."""
    match choice:
        case None:
            return ToolChoice()
        case "none" | "auto":
            return ToolChoice(ToolMode(choice))
        case {"name": str(name)}:
            return ToolChoice(ToolMode.REQUIRED, (name,))
        case _:
            raise wrong("function_call", "must be none, auto, or an object with a name")


def _mode(path: str, word: str) -> ToolMode:
    try:
        return ToolMode(word)
    except ValueError:
        raise wrong(path, "must be none, auto or required") from None


# -- calls in messages --------------------------------------------------------------------------------


def calls_of(path: str, calls: Any) -> tuple[ToolCall, ...]:
    """The calls that an assistant's message in the request carries."""
    if not isinstance(calls, list):
        raise wrong(path, "must be a list of calls")
    return tuple(_call(f"{path}.{index}", call) for index, call in enumerate(calls))


def _call(path: str, call: Any) -> ToolCall:
    if not isinstance(call, dict):
        raise wrong(path, "must be an object")
    refuse_other_types(path, call)
    identity = call.get("id") or ""
    if not isinstance(identity, str):
        raise wrong(f"{path}.id", "must be a string")
    return called(f"{path}.function", identity, call.get("function"))


def called(path: str, identity: str, function: Any) -> ToolCall:
    """A call with its name and its arguments as text; no text is no arguments, as some clients send it."""
    name = named(path, function)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        raise wrong(f"{path}.arguments", "must be a string of JSON")
    try:
        return ToolCall(identity, name, arguments.strip() or "{}")
    except InvalidRequest:
        raise wrong(f"{path}.arguments", "must be the JSON text of an object") from None


def call_json(call: ToolCall) -> Json:
    """A call as an answer has it."""
    return {"id": call.id, "type": "function", "function": function_json(call)}


def function_json(call: ToolCall) -> Json:
    """Its function, which is all there was in the old form."""
    return {"name": call.name, "arguments": call.arguments}


# -- parts --------------------------------------------------------------------------------------------


def named(path: str, function: Any) -> str:
    """The name in an object that must have one."""
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise wrong(f"{path}.name", "must be a string")
    return name


def refuse_other_types(path: str, value: Mapping[str, Any]) -> None:
    """Raise for a tool, or a call of one, that is no function."""
    kind = value.get("type", "function")
    if kind == "function":
        return
    if isinstance(kind, str):
        raise UnsupportedValue(f"tools of the type '{kind[:40]}' are not offered: use function", field=f"{path}.type")
    raise wrong(f"{path}.type", "must be function")
