"""Messages, tools and calls of them in the JSON that Ollama's clients write and read."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import Field

from api.bodies import Body
from api.errors import InvalidFields, Problem
from domain.errors import InvalidRequest
from domain.prompt import Message, role_of
from domain.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, ToolMode

MAX_MESSAGES = 1024
MAX_CALLS = 128
MAX_IMAGES = 64
MAX_ROLE = 64


class CalledBody(Body):
    """Which function an assistant called, and with what; the place among its calls is that in the list."""

    name: str
    arguments: dict[str, Any] | None = None


class CallBody(Body):
    """A call in an assistant's message."""

    id: str | None = None
    function: CalledBody


class MessageBody(Body):
    """One turn of a chat."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = None
    tool_calls: Annotated[list[CallBody], Field(max_length=MAX_CALLS)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class FunctionBody(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(Body):
    """A tool, which is a function."""

    type: str | None = None
    function: FunctionBody


MessageBodies = Annotated[list[MessageBody], Field(max_length=MAX_MESSAGES)]
ToolBodies = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS)]


def messages_of(bodies: Sequence[MessageBody]) -> tuple[Message, ...]:
    """The same for the domain. Raises InvalidFields for a role that is no word."""
    return tuple(_message(index, body) for index, body in enumerate(bodies))


def _message(index: int, body: MessageBody) -> Message:
    if not 0 < len(body.role) <= MAX_ROLE:
        raise InvalidFields([Problem(("messages", index, "role"), f"must have 1 to {MAX_ROLE} characters")])
    return Message(
        role_of(body.role),
        body.content or "",
        thinking=body.thinking or "",
        tool_calls=tuple(_call(call) for call in body.tool_calls or ()),
        tool_call_id=body.tool_call_id or "",
        tool_name=body.tool_name or "",
    )


def _call(body: CallBody) -> ToolCall:
    return ToolCall(body.id or "", body.function.name, orjson.dumps(body.function.arguments or {}).decode())


def has_images(bodies: Sequence[MessageBody]) -> bool:
    """Whether any of them shows something."""
    return any(body.images for body in bodies)


def tools_of(bodies: Sequence[ToolBody] | None) -> tuple[Tool, ...]:
    """What the model may call. Raises InvalidRequest naming `tools`."""
    return tuple(_tool(body) for body in bodies or ())


def _tool(body: ToolBody) -> Tool:
    if body.type not in (None, "", "function"):
        raise InvalidRequest(
            f"tools of the type '{(body.type or '')[:40]}' are not offered: use function", field="tools"
        )
    function = body.function
    if function.parameters is None:
        return Tool(function.name, function.description or "")
    return Tool(function.name, function.description or "", orjson.dumps(function.parameters).decode())


def tool_choice_of(wish: Any) -> ToolChoice:
    """Whether tools may, must or must not be called: a word, or the function that must be."""
    match wish:
        case None:
            return ToolChoice()
        case "none" | "auto" | "required":
            return ToolChoice(ToolMode(wish))
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice(ToolMode.REQUIRED, (name,))
        case _:
            raise InvalidRequest(
                "tool_choice must be none, auto, required, or an object that names a function", field="tool_choice"
            )


def call_record(index: int, call: ToolCall) -> dict[str, Any]:
    """Call number `index` of an answer; its arguments are an object."""
    function = {"index": index, "name": call.name, "arguments": orjson.loads(call.arguments)}
    return {"id": call.id, "function": function}


def message_record(message: Message) -> dict[str, Any]:
    """A message as it was written; fields without a value are left out."""
    record = {
        "role": str(message.role),
        "content": message.content,
        "thinking": message.thinking,
        "tool_calls": [call_record(index, call) for index, call in enumerate(message.tool_calls)],
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {name: value for name, value in record.items() if value or name in ("role", "content")}
