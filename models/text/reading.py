"""From the tokens of one answer to its text, its thinking and its calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from domain.tools import ToolCall
from models.text.decoding import StopStrings, TextStream
from models.text.parts import Kind, Part
from models.text.reasoning import ThinkingReader
from models.text.tools import CallReader


@dataclass(frozen=True, slots=True)
class Reading:
    """What a token made ready. `parts` are how the answer was cut for that, None where all of it is text."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    parts: Sequence[Part] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.text or self.thinking or self.calls)


_NOTHING = Reading()
_NO_PARTS = Reading(parts=())


class AnswerReader(Protocol):
    """Reads one answer token by token."""

    @property
    def decoded(self) -> int:
        """How many characters the tokens gave, whatever became of them."""
        ...

    @property
    def shown(self) -> int:
        """How many characters of text were released."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether the answer is over: a stop string ended it, or the one call that it may hold."""
        ...

    @property
    def is_thinking(self) -> bool:
        """Whether the next words are thinking."""
        ...

    def read(self, token: int, *, watch: bool = True) -> Reading:
        """Go on with `token`; without `watch` a stop string is text like any other."""
        ...

    def finish(self) -> Reading:
        """What was still held back when the answer ends."""
        ...


class PlainReader:
    """An answer that is nothing but text."""

    is_thinking = False

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream

    @property
    def decoded(self) -> int:
        """How many characters the tokens gave."""
        return self._stream.decoded

    @property
    def shown(self) -> int:
        """How many characters of text were released."""
        return self._stream.shown

    @property
    def stopped(self) -> bool:
        """Whether the answer is over."""
        return self._stream.stopped

    def read(self, token: int, *, watch: bool = True) -> Reading:
        """Go on with `token`."""
        text = self._stream.push(token, watch=watch)
        return Reading(text) if text else _NOTHING

    def finish(self) -> Reading:
        """What was still held back when the answer ends."""
        return Reading(self._stream.flush())


class PartsReader:
    """An answer that may hold thinking, calls or both. Stop strings are looked for in its text only."""

    def __init__(
        self, stream: TextStream, stops: StopStrings, thinking: ThinkingReader | None, calls: CallReader | None
    ) -> None:
        self._stream = stream
        self._stops = stops
        self.thinking = thinking
        self.calls = calls
        # What the last token said after thinking, whether or not it may be shown.
        self.said = ""

    @property
    def decoded(self) -> int:
        """How many characters the tokens gave."""
        return self._stream.decoded

    @property
    def shown(self) -> int:
        """How many characters of text were released."""
        return self._stops.shown

    @property
    def stopped(self) -> bool:
        """Whether the answer is over."""
        return self._stops.stopped or (self.calls is not None and self.calls.done)

    @property
    def is_thinking(self) -> bool:
        """Whether the next words are thinking."""
        return self.thinking is not None and self.thinking.is_thinking

    def read(self, token: int, *, watch: bool = True) -> Reading:
        """Go on with `token`."""
        piece = self._stream.push(token)
        if not piece:
            return _NO_PARTS
        parts = [Part(Kind.TEXT, piece)] if self.thinking is None else self.thinking.push(piece)
        self.said = "".join(part.text for part in parts if part.kind is Kind.TEXT)
        return self._gather(self._with_calls(parts), watch=watch)

    def finish(self) -> Reading:
        """What was still held back when the answer ends."""
        parts = [] if self.thinking is None else self.thinking.flush()
        parts = self._with_calls(parts)
        if self.calls is not None:
            parts += self.calls.flush()
        reading = self._gather(parts, watch=True)
        return Reading(reading.text + self._stops.flush(), reading.thinking, reading.calls, parts)

    def _with_calls(self, parts: list[Part]) -> list[Part]:
        if self.calls is None:
            return parts
        further: list[Part] = []
        for part in parts:
            further += self.calls.push(part.text) if part.kind is Kind.TEXT else [part]
        return further

    def _gather(self, parts: list[Part], *, watch: bool) -> Reading:
        """What of `parts` may be shown; a stop string ends the answer, so nothing after it counts."""
        text, thinking = "", ""
        calls: list[ToolCall] = []
        for number, part in enumerate(parts):
            if part.kind is Kind.TEXT:
                text += self._stops.push(part.text, watch=watch)
                if self._stops.stopped:
                    return Reading(text, thinking, tuple(calls), parts[: number + 1])
            elif part.kind is Kind.THINKING:
                thinking += part.text
            calls += part.calls
        return Reading(text, thinking, tuple(calls), parts)
