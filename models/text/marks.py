"""The marks by which models set thinking and calls apart from what they say, and how families write their calls."""

import re
from dataclasses import dataclass

THINK = "<think>"
THINK_END = "</think>"

_KNOWN = frozenset((THINK, THINK_END, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"))
_LOOKS = re.compile(r"<\|[^|<>]+\|>|<｜[^｜<>]+｜>|\[/?[A-Z_]+\]")  # noqa: RUF001


# An answer holds no more calls: a small model that may or must call repeats one for as long as it is let.
MAX_CALLS = 16


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a family writes a call: `opening` {"name": …, `key`: …} `closing`.

    Several calls follow one another with `between` in the middle; with `is_list` they stand in one JSON array after
    one opening, and with `name_mark` the name stands before that mark and only the arguments are JSON.
    """

    opening: str = ""
    closing: str = ""
    key: str = "arguments"
    between: str = "\n"
    is_list: bool = False
    name_mark: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """What may be single tokens of the vocabulary."""
        return tuple(mark for mark in (self.opening, self.closing, self.name_mark) if mark)

    @property
    def is_mistral(self) -> bool:
        """Whether ids of calls have to be of Mistral's form."""
        return self.opening == "[TOOL_CALLS]"


HERMES = CallSyntax("<tool_call>", "</tool_call>")
LLAMA = CallSyntax("<|python_tag|>", key="parameters", between="; ")
MISTRAL = CallSyntax("[TOOL_CALLS]", is_list=True, between=", ")
MISTRAL_NAMED = CallSyntax("[TOOL_CALLS]", name_mark="[ARGS]", between="")
# Of templates whose way is not known here: JSON, which every model can be held to.
BARE = CallSyntax()


def syntax_of(template: str) -> CallSyntax:
    """The way of the family whose chat template this is."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if HERMES.opening in template:
        return HERMES
    if '"parameters"' in template and ("<|eot_id|>" in template or LLAMA.opening in template):
        return LLAMA
    return BARE


def is_mark(text: str) -> bool:
    """Whether an added token is there to be told from text, even if the vocabulary does not call it special."""
    return text in _KNOWN or bool(_LOOKS.fullmatch(text))
