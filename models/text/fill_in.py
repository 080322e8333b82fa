"""Filling in the middle: the tokens that some vocabularies have for it, and the prompts that are built of them."""

from collections.abc import Callable
from dataclasses import dataclass

from domain.prompt import FillInMiddle


@dataclass(frozen=True, slots=True)
class FillInStyle:
    """How a family writes text with a hole: `before` prefix `between` suffix `after`; `ends` are the answer's ends.

    With `is_suffix_first` the two texts change places, as Codestral reads them.
    """

    before: str
    between: str
    after: str = ""
    ends: tuple[str, ...] = ()
    is_suffix_first: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """What a vocabulary must have as single tokens."""
        return tuple(mark for mark in (self.before, self.between, self.after) if mark)


_STYLES = (
    FillInStyle(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        (
            "<|endoftext|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<|file_separator|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
        ),
    ),
    FillInStyle(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>", "<file_sep>", "<repo_name>", "<fim_pad>")
    ),
    FillInStyle("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<|endoftext|>", "<fim-pad>")),
    FillInStyle("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
    FillInStyle("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ("<｜end▁of▁sentence｜>",)),  # noqa: RUF001
    FillInStyle("[SUFFIX]", "[PREFIX]", is_suffix_first=True),
)


@dataclass(frozen=True, slots=True)
class FillIn:
    """One vocabulary's style, its marks as ids."""

    style: FillInStyle
    ids: tuple[int, ...]
    end_ids: frozenset[int]

    def prompt(self, hole: FillInMiddle, encode: Callable[[str], list[int]]) -> list[int]:
        """The ids of text with a hole; `encode` reads plain text."""
        texts = (hole.after, hole.before) if self.style.is_suffix_first else (hole.before, hole.after)
        before, between, *after = self.ids
        return [before, *encode(texts[0]), between, *encode(texts[1]), *after]


def find_fill_in(id_of: Callable[[str], int | None]) -> FillIn | None:
    """The first style whose every mark is a token of the vocabulary that `id_of` looks into."""
    for style in _STYLES:
        ids = [id_of(mark) for mark in style.marks]
        known = tuple(token for token in ids if token is not None)
        if len(known) == len(ids):
            ends = (id_of(mark) for mark in style.ends)
            return FillIn(style, known, frozenset(token for token in ends if token is not None))
    return None
