"""The messages of a chat as this dialect writes them, as domain messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.errors import InvalidFields, Problem, UnsupportedValue
from domain.errors import UnsupportedCapability, UnsupportedParameter
from domain.prompt import Chat, Message, Role

MAX_MESSAGES = 1024
MAX_PARTS = 64

_ROLES: Mapping[str, Role] = {**{role.value: role for role in Role}, "developer": Role.SYSTEM}
# What a message may carry that would change the prompt and cannot be honoured yet.
_NOT_OFFERED = ("tool_calls", "function_call", "audio", "reasoning_content", "reasoning")
_MEDIA = {"image_url": "images", "input_audio": "audio"}


def chat_of(messages: Sequence[Any]) -> Chat:
    """The prompt. Raises InvalidRequest (and its kinds) naming the field as a path, such as `messages.0.content`."""
    if len(messages) > MAX_MESSAGES:
        raise InvalidFields([Problem(("messages",), f"must hold at most {MAX_MESSAGES} messages")])
    return Chat(tuple(_message(f"messages.{index}", message) for index, message in enumerate(messages)))


def _message(path: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise _wrong(path, "must be an object")
    role = message.get("role")
    if role == "function":
        raise UnsupportedValue("the role function is not offered yet", field=f"{path}.role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{path}.role", f"must be one of {', '.join(_ROLES)}")
    for name in _NOT_OFFERED:
        if message.get(name) not in (None, "", []):
            raise UnsupportedParameter(f"{name} is not offered yet: leave it out", field=f"{path}.{name}")
    return Message(_ROLES[role], _content(path, message))


def _content(path: str, message: Mapping[str, Any]) -> str:
    content, refusal = message.get("content"), message.get("refusal")
    if content is None and message["role"] == Role.ASSISTANT and isinstance(refusal, str):
        return refusal
    path = f"{path}.content"
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(path, "must be a string or a list of parts")
    if not 1 <= len(content) <= MAX_PARTS:
        raise _wrong(path, f"must hold 1 to {MAX_PARTS} parts")
    return "".join(_part(f"{path}.{index}", part) for index, part in enumerate(content))


def _part(path: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise _wrong(path, "must be an object with a type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise _wrong(f"{path}.{kind}", "must be a string")
        return text
    if kind == "image_url":
        _refuse_addresses(f"{path}.image_url", part.get("image_url"))
    if kind in _MEDIA:
        raise UnsupportedCapability(f"the model does not take {_MEDIA[kind]}", field=f"{path}.type")
    raise UnsupportedValue(f"parts of the type '{kind[:40]}' are not offered", field=f"{path}.type")


def _refuse_addresses(path: str, image: Any) -> None:
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise _wrong(f"{path}.url", "must be a string")
    if not url.startswith("data:"):
        raise UnsupportedValue("images are not fetched: send a data: URL", field=f"{path}.url")


def _wrong(path: str, why: str) -> InvalidFields:
    return InvalidFields([Problem(tuple(path.split(".")), why)])
