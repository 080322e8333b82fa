"""Messages and tools as chat templates expect them: the dictionaries that transformers documents."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from domain.prompt import Chat, Message, Role
from domain.tools import Tool, ToolMode

# Mistral's templates refuse any other length.
_SHORT_ID = 9

Clean = Callable[[str], str]


def callable_tools(chat: Chat) -> tuple[Tool, ...]:
    """The tools that the answer to `chat` may call, which are those that the model is shown."""
    if chat.tool_choice.mode is ToolMode.NONE:
        return ()
    names = chat.tool_choice.names
    return tuple(tool for tool in chat.tools if not names or tool.name in names)


def tool_value(tool: Tool, clean: Clean) -> dict[str, Any]:
    """A tool in the form of OpenAI's `tools`; `clean` is applied to every text in it."""
    parameters = _cleaned(json.loads(tool.parameters), clean)
    function = {"name": clean(tool.name), "description": clean(tool.description), "parameters": parameters}
    return {"type": "function", "function": function}


def message_values(messages: Iterable[Message], clean: Clean, *, short_ids: bool = False) -> list[dict[str, Any]]:
    """Each message as a dictionary; calls and results that carry no ids get them in the order of the chat."""
    return [_message_value(message, clean, short_ids=short_ids) for message in _linked(messages)]


def _message_value(message: Message, clean: Clean, *, short_ids: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"role": clean(str(message.role)), "content": clean(message.content)}
    if message.thinking:
        value["reasoning_content"] = value["thinking"] = clean(message.thinking)
    if message.tool_calls:
        value["tool_calls"] = [
            {
                "id": _id(call.id, clean, short=short_ids),
                "type": "function",
                "function": {"name": clean(call.name), "arguments": _cleaned(json.loads(call.arguments), clean)},
            }
            for call in message.tool_calls
        ]
    if message.role is Role.TOOL:
        value["tool_call_id"] = _id(message.tool_call_id, clean, short=short_ids)
        value["name"] = clean(message.tool_name)
    return value


def _linked(messages: Iterable[Message]) -> Iterable[Message]:
    """Give each call an id, and each result the id and the name of the call that it answers."""
    names: dict[str, str] = {}
    unanswered: list[str] = []
    for message in messages:
        if message.tool_calls:
            calls = tuple(
                replace(call, id=call.id or f"call_{len(names) + number}")
                for number, call in enumerate(message.tool_calls)
            )
            names.update((call.id, call.name) for call in calls)
            unanswered = [call.id for call in calls]
            message = replace(message, tool_calls=calls)
        elif message.role is Role.TOOL:
            answered = message.tool_call_id or next(
                (id_ for id_ in unanswered if message.tool_name in ("", names[id_])), ""
            )
            if answered in unanswered:
                unanswered.remove(answered)
            name = message.tool_name or names.get(answered, "")
            message = replace(message, tool_call_id=answered, tool_name=name)
        yield message


def _id(id_: str, clean: Clean, *, short: bool) -> str:
    if not short:
        return clean(id_)
    return (
        id_
        if len(id_) == _SHORT_ID and id_.isalnum()
        else hashlib.sha256(id_.encode(errors="replace")).hexdigest()[:_SHORT_ID]
    )


def _cleaned(value: Any, clean: Clean) -> Any:
    match value:
        case str():
            return clean(value)
        case list():
            return [_cleaned(item, clean) for item in value]
        case dict():
            return {clean(key): _cleaned(item, clean) for key, item in value.items()}
        case _:
            return value
