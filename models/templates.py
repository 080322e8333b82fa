"""What a chat template says of its model. Only its text is looked at; nothing is compiled or run."""

import re
from dataclasses import dataclass

_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(r"\benable_thinking\b|<think>")
_SWITCH = re.compile(r"\benable_thinking\b|\bthinking\b")


@dataclass(frozen=True, slots=True)
class TemplateAbilities:
    """Whether the template shows tools to the model, makes it think, and can be told not to."""

    tools: bool
    thinking: bool
    has_thinking_switch: bool


def abilities_of(template: str) -> TemplateAbilities:
    """By the variables and marks that stand in the template's text."""
    return TemplateAbilities(
        tools=bool(_TOOLS.search(template)),
        thinking=bool(_THINKING.search(template)),
        has_thinking_switch=bool(_SWITCH.search(template)),
    )


def capabilities_of(template: str, *, insert: bool = False) -> tuple[str, ...]:
    """The names by which clients know what a text model with this template can do."""
    abilities = abilities_of(template)
    return (
        "completion",
        *(("tools",) if abilities.tools else ()),
        *(("thinking",) if abilities.thinking else ()),
        *(("insert",) if insert else ()),
    )
