"""Tokens to text that may be shown: whole characters only, and no part of a stop string."""

from collections.abc import Callable, Iterator, Mapping

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class StopStrings:
    """Lets text through up to the first stop string; the beginning of one is held back until it is none.

    `may_stop` says whether an answer may end with the text so far. `shown` counts the characters released.
    """

    def __init__(self, stop: tuple[str, ...], may_stop: Callable[[str], bool] | None = None) -> None:
        self._stop = stop
        self._may_stop = may_stop
        self._before = ""
        self._held = ""
        self.shown = 0
        self.stopped = False

    def push(self, piece: str, *, watch: bool = True) -> str:
        """The text that this piece makes ready; `stopped` is set when it completed a stop string.

        Without `watch` a stop string is text like any other; once watched, an answer is watched to its end.
        """
        ready = self._release(piece, watch) if self._stop and not self.stopped else "" if self.stopped else piece
        self.shown += len(ready)
        return ready

    def flush(self) -> str:
        """What is held back when the answer ends: it was no stop string."""
        if self.stopped:
            return ""
        held, self._held = self._held, ""
        self.shown += len(held)
        return held

    def _release(self, piece: str, watch: bool) -> str:
        self._held += piece
        stop_at = self._stop_in_held() if watch else None
        if stop_at is not None:
            self.stopped = True
            ready, self._held = self._held[:stop_at], ""
            return ready
        keep = max(overlap(self._held, text) for text in self._stop) if watch else 0
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        if self._may_stop is not None:
            self._before += ready
        return ready

    def _stop_in_held(self) -> int | None:
        if self._may_stop is None:
            return min((at for at in (self._held.find(text) for text in self._stop) if at >= 0), default=None)
        places = {at for text in self._stop for at in _occurrences(self._held, text)}
        return next((at for at in sorted(places) if self._may_stop(self._before + self._held[:at])), None)


class TextStream:
    """Turns the tokens of one answer into text that may be shown.

    A character is held back until it is whole, and the beginning of a stop string until it is none. Control tokens
    give no text, except those in `spelled`. `decoded` counts the characters that the tokens gave.
    """

    def __init__(
        self,
        backend: Tokenizer,
        stop: tuple[str, ...] = (),
        may_stop: Callable[[str], bool] | None = None,
        spelled: Mapping[int, str] | None = None,
    ) -> None:
        self._backend = backend
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stops = StopStrings(stop, may_stop)
        self._spelled = spelled or {}
        self.decoded = 0

    @property
    def shown(self) -> int:
        """How many characters were released."""
        return self._stops.shown

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text."""
        return self._stops.stopped

    def push(self, token: int, *, watch: bool = True) -> str:
        """The text that this token makes ready; without `watch` a stop string is text like any other."""
        piece = self._spelled.get(token) or self._decoder.step(self._backend, token)
        if not piece:
            return ""
        self.decoded += len(piece)
        return self._stops.push(piece, watch=watch)

    def flush(self) -> str:
        """What is held back when the answer ends; an incomplete character stays out."""
        return self._stops.flush()


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` could be the beginning of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def _occurrences(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)
