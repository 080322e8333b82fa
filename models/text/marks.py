"""The marks by which models set thinking and calls apart from what they say, and how families write their calls."""

import re
from dataclasses import dataclass

THINK = "<think>"
THINK_END = "</think>"

_KNOWN = frozenset((THINK, THINK_END, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"))
XML_FUNCTION = "<function="
XML_END = "</function>"
XML_PARAMETER = "<parameter="
XML_PARAMETER_END = "</parameter>"

_LOOKS = re.compile(r"<\|[^|<>]+\|>|<｜[^｜<>]+｜>|\[/?[A-Z_]+\]")  # noqa: RUF001


# An answer holds no more calls: a small model that may or must call repeats one for as long as it is let.
MAX_CALLS = 16


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a family writes a call: `opening` {"name": …, `key`: …} `closing`, with `inner` between marks and JSON.

    Several calls follow one another with `between` in the middle, all of them inside the marks `outer`; with `is_list`
    they stand in one JSON array after one opening. With `name_mark` the name stands before that mark and only the
    arguments are JSON; with `is_xml` there is no JSON, but a function and its parameters as elements.
    """

    opening: str = ""
    closing: str = ""
    key: str = "arguments"
    between: str = "\n"
    inner: str = "\n"
    is_list: bool = False
    is_xml: bool = False
    name_mark: str = ""
    outer: tuple[str, str] = ("", "")

    @property
    def first(self) -> str:
        """The mark that a call begins with."""
        return self.outer[0] or self.opening

    @property
    def marks(self) -> tuple[str, ...]:
        """What may be single tokens of the vocabulary."""
        written = (self.opening, self.closing, self.name_mark, *self.outer)
        return tuple(piece for mark in written for piece in pieces_of(mark) if is_mark(piece))

    @property
    def is_mistral(self) -> bool:
        """Whether ids of calls have to be of Mistral's form."""
        return self.opening == "[TOOL_CALLS]"


HERMES = CallSyntax("<tool_call>", "</tool_call>")
LLAMA = CallSyntax("<|python_tag|>", key="parameters", between="; ")
MISTRAL = CallSyntax("[TOOL_CALLS]", is_list=True, between=", ")
MISTRAL_NAMED = CallSyntax("[TOOL_CALLS]", name_mark="[ARGS]", between="")
QWEN_XML = CallSyntax("<tool_call>", "</tool_call>", is_xml=True)
_DEEPSEEK_CALL, _DEEPSEEK_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
_DEEPSEEK_NAME, _DEEPSEEK_OUTER = "<｜tool▁sep｜>", ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")  # noqa: RUF001
DEEPSEEK = CallSyntax(
    _DEEPSEEK_CALL, _DEEPSEEK_END, between="", inner="", name_mark=_DEEPSEEK_NAME, outer=_DEEPSEEK_OUTER
)
# The third version and the first reasoners write the type of the tool before its name, and fence the arguments.
DEEPSEEK_FENCED = CallSyntax(
    f"{_DEEPSEEK_CALL}function{_DEEPSEEK_NAME}",
    f"\n```{_DEEPSEEK_END}",
    inner="",
    name_mark="\n```json\n",
    outer=_DEEPSEEK_OUTER,
)
# Of templates whose way is not known here: JSON, which every model can be held to.
BARE = CallSyntax()


def syntax_of(template: str) -> CallSyntax:
    """The way of the family whose chat template this is."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if _DEEPSEEK_NAME in template:
        return DEEPSEEK_FENCED if "```json" in template else DEEPSEEK
    if XML_FUNCTION in template and XML_PARAMETER in template:
        return QWEN_XML
    if HERMES.opening in template:
        return HERMES
    if '"parameters"' in template and ("<|eot_id|>" in template or LLAMA.opening in template):
        return LLAMA
    return BARE


def pieces_of(mark: str) -> list[str]:
    """A mark cut into those that may be tokens of their own, and what stands between them."""
    return [piece for piece in re.split(f"({_LOOKS.pattern})", mark) if piece]


def is_mark(text: str) -> bool:
    """Whether an added token is there to be told from text, even if the vocabulary does not call it special."""
    return text in _KNOWN or bool(_LOOKS.fullmatch(text))
