"""Functions that a model may ask its caller to run, and what it asks."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from domain.constraint import JsonSchema
from domain.errors import InvalidRequest

MAX_TOOLS = 128

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema of its arguments, as JSON text.

    `strict` asks that every call's arguments are held to the schema while they are written. Raises InvalidRequest
    for a name that no dialect could carry back, and for a schema that is no object.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'
    strict: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                "a tool's name must have 1 to 128 letters, digits, underscores, dots or dashes", field="tools"
            )
        try:
            JsonSchema(self.parameters)
        except InvalidRequest as error:
            raise InvalidRequest(f"the parameters of the tool '{self.name}': {error}", field="tools") from None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model asks for. `arguments` is the JSON text of an object; `id` is the caller's to return."""

    id: str
    name: str
    arguments: str

    def __post_init__(self) -> None:
        try:
            is_object = isinstance(json.loads(self.arguments), dict)
        except ValueError:
            is_object = False
        if not is_object:
            raise InvalidRequest(
                f"the arguments of a call of '{self.name[:128]}' must be the JSON text of an object",
                field="tool_calls",
            )


class ToolMode(StrEnum):
    """Whether an answer may, must or must not call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools an answer may call, and whether it must.

    `names` empty means all of the request's tools. With REQUIRED the answer is one call, or several where the
    request allows parallel calls, of the named tools and nothing else; that is enforced or refused.
    """

    mode: ToolMode = ToolMode.AUTO
    names: tuple[str, ...] = ()
