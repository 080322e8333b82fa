"""Tells thinking from what is said, piece by piece."""

from enum import Enum, auto

from models.text.decoding import overlap
from models.text.marks import THINK, THINK_END
from models.text.parts import Kind, Part, some, split_left, split_right


class _State(Enum):
    START = auto()
    INSIDE = auto()
    AFTER = auto()
    OVER = auto()


class ThinkingReader:
    """Cuts text into THINKING, HIDDEN and, once the thinking is over, TEXT.

    A model thinks at the beginning of its answer or not at all, so a mark further on is text. With `is_open` the
    prompt has begun the thinking. White space at both ends of the thinking, and before the text after it, is hidden.
    """

    def __init__(self, *, is_open: bool) -> None:
        self._state = _State.INSIDE if is_open else _State.START
        self._is_blank = True
        self._held = ""

    @property
    def is_undecided(self) -> bool:
        """Whether nothing but white space or the beginning of a mark was read."""
        return self._state is _State.START

    @property
    def is_thinking(self) -> bool:
        """Whether the next words are thinking, as far as is known."""
        return self._state is _State.INSIDE

    def push(self, text: str) -> list[Part]:
        """The parts that `text` makes certain."""
        self._held += text
        parts: list[Part] = []
        state = None
        while self._held and state is not self._state:
            state = self._state
            parts += self._advance()
        return parts

    def flush(self) -> list[Part]:
        """What is left when the answer ends."""
        held, self._held = self._held, ""
        match self._state:
            case _State.INSIDE:
                words, space = split_right(held)
                return [*self._thought(words), *some(Kind.HIDDEN, space)]
            case _State.AFTER:
                return some(Kind.HIDDEN, held)
            case _:
                self._state = _State.OVER
                return some(Kind.TEXT, held)

    def _advance(self) -> list[Part]:
        match self._state:
            case _State.START:
                return self._begin()
            case _State.INSIDE:
                return self._think()
            case _State.AFTER:
                space, self._held = split_left(self._held)
                if self._held:
                    self._state = _State.OVER
                return some(Kind.HIDDEN, space)
            case _State.OVER:
                held, self._held = self._held, ""
                return some(Kind.TEXT, held)

    def _begin(self) -> list[Part]:
        space, rest = split_left(self._held)
        if rest.startswith(THINK):
            self._state = _State.INSIDE
            self._held = rest[len(THINK) :]
            return [Part(Kind.HIDDEN, space + THINK)]
        if not THINK.startswith(rest):
            self._state = _State.OVER
        return []

    def _think(self) -> list[Part]:
        at = self._held.find(THINK_END)
        if at >= 0:
            words, space = split_right(self._held[:at])
            self._held = self._held[at + len(THINK_END) :]
            self._state = _State.AFTER
            return [*self._thought(words), Part(Kind.HIDDEN, space + THINK_END)]
        certain = len(self._held) - overlap(self._held, THINK_END)
        words, _ = split_right(self._held[:certain])
        self._held = self._held[len(words) :]
        return self._thought(words)

    def _thought(self, words: str) -> list[Part]:
        if not self._is_blank:
            return some(Kind.THINKING, words)
        space, rest = split_left(words)
        self._is_blank = not rest
        return [*some(Kind.HIDDEN, space), *some(Kind.THINKING, rest)]
