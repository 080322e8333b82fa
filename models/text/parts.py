"""The parts that an answer's text falls into. One after another they are the whole text as the model wrote it."""

from dataclasses import dataclass
from enum import Enum, auto

from domain.tools import ToolCall


class Kind(Enum):
    """What a part is to the caller; HIDDEN is marks and the white space around them, CALL is whole calls."""

    TEXT = auto()
    THINKING = auto()
    HIDDEN = auto()
    CALL = auto()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer as the model wrote it; `calls` are the calls that a part of kind CALL stands for."""

    kind: Kind
    text: str
    calls: tuple[ToolCall, ...] = ()


def some(kind: Kind, text: str) -> list[Part]:
    """A part, or none if there is no text in it."""
    return [Part(kind, text)] if text else []


def split_left(text: str) -> tuple[str, str]:
    """The white space at the beginning, and what comes after it."""
    rest = text.lstrip()
    return text[: len(text) - len(rest)], rest


def split_right(text: str) -> tuple[str, str]:
    """What comes before the white space at the end, and that space."""
    rest = text.rstrip()
    return rest, text[len(rest) :]
