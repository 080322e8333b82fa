"""The messages of a chat as this dialect writes them, as domain messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.errors import UnsupportedValue
from api.openai.reading import wrong
from api.openai.tools import called, calls_of
from domain.errors import UnsupportedCapability, UnsupportedParameter
from domain.prompt import Message, Role
from domain.tools import ToolCall

MAX_MESSAGES = 1024
MAX_PARTS = 64

_ROLES: Mapping[str, Role] = {
    **{role.value: role for role in Role},
    "developer": Role.SYSTEM,
    # The old form of a tool's message: it names the function and no call.
    "function": Role.TOOL,
}
_MEDIA = {"image_url": "images", "input_audio": "audio"}


def messages_of(messages: Sequence[Any]) -> tuple[Message, ...]:
    """The chat. Raises InvalidRequest (and its kinds) naming the field as a path, such as `messages.0.content`."""
    if len(messages) > MAX_MESSAGES:
        raise wrong("messages", f"must hold at most {MAX_MESSAGES} messages")
    names: dict[str, str] = {}
    chat = []
    for index, raw in enumerate(messages):
        message = _message(f"messages.{index}", raw, names)
        names |= {call.id: call.name for call in message.tool_calls}
        chat.append(message)
    return tuple(chat)


def _message(path: str, message: Any, names: Mapping[str, str]) -> Message:
    """`names` are those of the functions that were called so far, by the ids of the calls."""
    if not isinstance(message, dict):
        raise wrong(path, "must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{path}.role", f"must be one of {', '.join(_ROLES)}")
    match _ROLES[role]:
        case Role.ASSISTANT:
            return _assistant(path, message)
        case Role.TOOL:
            identity = _text(path, message, "tool_call_id")
            name = _text(path, message, "name") or names.get(identity, "")
            if role == "function" and not name:
                raise wrong(f"{path}.name", "must be the name of the function")
            return Message(Role.TOOL, _content(path, message), tool_call_id=identity, tool_name=name)
        case other:
            return Message(other, _content(path, message))


def _assistant(path: str, message: Mapping[str, Any]) -> Message:
    if message.get("audio") is not None:
        raise UnsupportedParameter("audio is not offered: leave it out", field=f"{path}.audio")
    calls = _calls(path, message)
    # Both names are in use for one thing; this server's own answers carry both.
    thinking = _text(path, message, "reasoning_content") or _text(path, message, "reasoning")
    return Message(Role.ASSISTANT, _said(path, message, calls), thinking, calls)


def _calls(path: str, message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    if message.get("tool_calls") is not None:
        return calls_of(f"{path}.tool_calls", message["tool_calls"])
    if message.get("function_call") is not None:
        return (called(f"{path}.function_call", "", message["function_call"]),)
    return ()


def _said(path: str, message: Mapping[str, Any], calls: Sequence[ToolCall]) -> str:
    if message.get("content") is None:
        if refusal := _text(path, message, "refusal"):
            return refusal
        if calls:
            return ""
    return _content(path, message)


def _text(path: str, message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str | None):
        raise wrong(f"{path}.{name}", "must be a string")
    return value or ""


def _content(path: str, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    path = f"{path}.content"
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(path, "must be a string or a list of parts")
    if not 1 <= len(content) <= MAX_PARTS:
        raise wrong(path, f"must hold 1 to {MAX_PARTS} parts")
    return "".join(_part(f"{path}.{index}", part) for index, part in enumerate(content))


def _part(path: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise wrong(path, "must be an object with a type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise wrong(f"{path}.{kind}", "must be a string")
        return text
    if kind == "image_url":
        _refuse_addresses(f"{path}.image_url", part.get("image_url"))
    if kind in _MEDIA:
        raise UnsupportedCapability(f"the model does not take {_MEDIA[kind]}", field=f"{path}.type")
    raise UnsupportedValue(f"parts of the type '{kind[:40]}' are not offered", field=f"{path}.type")


def _refuse_addresses(path: str, image: Any) -> None:
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise wrong(f"{path}.url", "must be a string")
    if not url.startswith("data:"):
        raise UnsupportedValue("images are not fetched: send a data: URL", field=f"{path}.url")
