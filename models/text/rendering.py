"""A chat as its model reads it: the template's text, in which whatever users wrote is data."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.prompt import Chat, Role
from models.templates import TemplateAbilities
from models.text import marks
from models.text.marks import CallSyntax
from models.text.template import ChatTemplate
from models.text.turns import callable_tools, message_values, tool_value

# Not characters of any text: the first stands in rendered templates where a user spelled out a control token, the
# second at the end of a message that is to be continued.
BREAK = "\ue0b7"
_CUT = "\ue0b8"
_NOT_TEXT = str.maketrans("", "", BREAK + _CUT)


class Rendering:
    """The template of one model and the control tokens of its vocabulary."""

    def __init__(
        self,
        template: str | None,
        special: Mapping[str, str],
        control: Iterable[str],
        abilities: TemplateAbilities,
        syntax: CallSyntax,
    ) -> None:
        self._source = template
        self._template: ChatTemplate | None = None
        self._special = special
        self._abilities = abilities
        self._syntax = syntax
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.broken_control = re.compile("|".join(re.escape(_break(text)) for text in longest_first) or r"(?!)")

    def clean(self, text: str) -> str:
        """`text` as data: a control token in it is broken, so that it is encoded as what it is spelled with."""
        return self._control.sub(lambda match: _break(match[0]), text.translate(_NOT_TEXT))

    def render(self, chat: Chat) -> str:
        """What the template makes of `chat`, control tokens of users broken.

        Raises UnsupportedCapability for what the template cannot show, InvalidRequest for what it refuses.
        """
        if self._source is None:
            raise UnsupportedCapability("the model has no chat template: use a raw prompt", field="messages")
        self._check(chat)
        if self._template is None:
            self._template = ChatTemplate(self._source)
        rendered = self._template.render(self._variables(chat))
        if chat.continue_final_message:
            return _cut_open(rendered)
        return self._without_thinking(rendered) if chat.think is False and chat.add_generation_prompt else rendered

    def _check(self, chat: Chat) -> None:
        if not self._abilities.tools:
            if callable_tools(chat):
                raise UnsupportedCapability(
                    "the model cannot call tools: its chat template does not show them", field="tools"
                )
            if any(message.tool_calls or message.role is Role.TOOL for message in chat.messages):
                raise UnsupportedCapability(
                    "the model's chat template shows neither calls of tools nor their results", field="messages"
                )
        if chat.think and not self._abilities.thinking:
            raise UnsupportedCapability("the model does not think before it answers", field="think")

    def _variables(self, chat: Chat) -> dict[str, Any]:
        messages = message_values(chat.messages, self.clean, short_ids=self._syntax.is_mistral)
        if chat.continue_final_message:
            messages[-1]["content"] += _CUT
        tools = [tool_value(tool, self.clean) for tool in callable_tools(chat)]
        variables: dict[str, Any] = {
            "documents": None,
            **self._special,
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": chat.add_generation_prompt and not chat.continue_final_message,
        }
        if chat.think is not None:
            variables["enable_thinking"] = variables["thinking"] = chat.think
        if chat.reasoning_effort:
            variables["reasoning_effort"] = self.clean(chat.reasoning_effort)
        return variables

    def _without_thinking(self, rendered: str) -> str:
        """Templates that cannot be told not to think get the thinking closed before it begins."""
        if not self._abilities.thinking:
            return rendered
        if rendered.rstrip().endswith(marks.THINK):
            return f"{rendered.rstrip()}\n\n{marks.THINK_END}\n\n"
        if self._abilities.has_thinking_switch:
            return rendered
        return f"{rendered}{marks.THINK}\n\n{marks.THINK_END}\n\n"


def _cut_open(rendered: str) -> str:
    at = rendered.rfind(_CUT)
    if at < 0:
        raise InvalidRequest(
            "the model's chat template does not show the end of the last message, so it cannot be continued",
            field="continue_final_message",
        )
    return rendered[:at].replace(_CUT, "")


def _break(control: str) -> str:
    return control[0] + BREAK + control[1:]
