"""What a text model reads: a chat, plain text, or token ids."""

from dataclasses import dataclass, field
from enum import StrEnum

from domain.errors import InvalidRequest
from domain.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, ToolMode


class Role(StrEnum):
    """Who speaks a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


def role_of(word: str) -> Role | str:
    """The role that `word` names, whatever its case; a word that names none is for the model's template to know."""
    return next((role for role in Role if role == word.lower()), word)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `content` is data: control tokens written in it are plain text to the model.

    `role` is what `role_of` makes of a word.
    `thinking` and `tool_calls` belong to an assistant's turn; `tool_call_id` and `tool_name` to a tool's, whose
    `content` is what the call gave.
    """

    role: Role | str
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    tool_name: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt that goes through the model's own chat template.

    `think` None leaves it to the model's template; on a model that does not think, True is refused before the first
    chunk (UnsupportedCapability), and so are tools on a model without them. With `continue_final_message` the last
    message, an assistant's, is left open and the answer goes on with it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    think: bool | None = None
    reasoning_effort: str = ""
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidRequest("messages must hold at least one message", field="messages")
        if self.continue_final_message and self.messages[-1].role is not Role.ASSISTANT:
            raise InvalidRequest("only an assistant's message can be continued", field="continue_final_message")
        self._check_tools()

    def _check_tools(self) -> None:
        names = {tool.name for tool in self.tools}
        if len(names) != len(self.tools) or len(names) > MAX_TOOLS:
            raise InvalidRequest(f"tools may hold at most {MAX_TOOLS} functions, each name once", field="tools")
        if not self.tools and self.tool_choice.mode is ToolMode.REQUIRED:
            raise InvalidRequest("tool_choice asks for a call, and there are no tools", field="tool_choice")
        for name in self.tool_choice.names:
            if name not in names:
                raise InvalidRequest(f"tool_choice names '{name[:128]}', which is not in tools", field="tool_choice")


@dataclass(frozen=True, slots=True)
class RawText:
    """A prompt that is given to the model as it stands, control tokens included."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise InvalidRequest("prompt must not be empty", field="prompt")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt that is tokens already. Ids outside the model's vocabulary are refused before the first chunk.

    `chat` is the chat whose end these tokens are, if they are one's: the answer is then read as an answer to it.
    """

    ids: tuple[int, ...]
    chat: Chat | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            raise InvalidRequest("prompt must not be empty", field="prompt")


@dataclass(frozen=True, slots=True)
class Continuation:
    """Token ids of an earlier answer, then one more user turn (Ollama's `context`)."""

    token_ids: tuple[int, ...]
    then: Chat


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """Text with a hole: the answer is what stands between `before` and `after`.

    Refused (UnsupportedCapability) on a model whose tokenizer has no tokens for it.
    """

    before: str
    after: str


Prompt = Chat | RawText | TokenIds | Continuation | FillInMiddle


def chat_of(prompt: Prompt) -> Chat | None:
    """The chat that an answer to `prompt` belongs to: its thinking and its calls are told apart from its text."""
    match prompt:
        case Chat():
            return prompt
        case Continuation(_, then):
            return then
        case TokenIds(_, chat):
            return chat
        case _:
            return None
