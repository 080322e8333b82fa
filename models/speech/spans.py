"""From the probability of speech in each frame to spans of speech, as the frames come."""

from collections.abc import Generator, Iterator, Sequence

from domain.listening import VadOptions
from models.speech.windows import SAMPLE_RATE, Span

FRAME = 512
_RELEASE = 0.15
_LONG_SPEECH = 30 * SAMPLE_RATE
"""Speech without an end in sight is handed on in pieces of this size."""


class SpanFinder:
    """Speech begins at a frame above the threshold and ends where it stays clearly below for long enough.

    Spans are padded on both sides; where two paddings would meet, they meet in the middle of the pause.
    """

    def __init__(self, options: VadOptions) -> None:
        per_ms = SAMPLE_RATE / 1000
        self._threshold = options.threshold
        self._release = max(options.threshold - _RELEASE, 0.01)
        self._min_silence = options.min_silence_ms * per_ms
        self._min_speech = options.min_speech_ms * per_ms
        self._pad = int(options.speech_pad_ms * per_ms)
        self._position = 0
        self._begin: int | None = None  # of the speech that goes on
        self._maybe_end: int | None = None
        self._held: tuple[int, int] | None = None  # speech that ended: its padded start, its unpadded end
        self._handed_on: int | None = None  # up to where the speech that goes on was handed on

    def add(self, probabilities: Sequence[float]) -> Iterator[Span]:
        """The spans that are certain after the next frames."""
        for probability in probabilities:
            yield from self._frame(probability)
            self._position += FRAME
            if self._held is not None and self._position - self._held[1] >= 2 * self._pad and self._begin is None:
                yield from self._release_held(self._held[1] + self._pad)

    def _frame(self, probability: float) -> Iterator[Span]:
        if probability >= self._threshold:
            self._maybe_end = None
            if self._begin is None:
                self._begin = self._position
            elif self._position - self._begin >= _LONG_SPEECH:
                yield from self._hand_on()
        elif probability < self._release and self._begin is not None:
            if self._maybe_end is None:
                self._maybe_end = self._position
            if self._position - self._maybe_end >= self._min_silence:
                yield from self._end_speech(self._maybe_end)

    def _hand_on(self) -> Iterator[Span]:
        assert self._begin is not None
        start = self._handed_on
        if start is None:
            start = yield from self._padded_start(self._begin)
        yield Span(start, self._position, continues=True)
        self._handed_on = self._begin = self._position

    def _end_speech(self, end: int) -> Iterator[Span]:
        assert self._begin is not None
        begin, start = self._begin, self._handed_on
        self._begin = self._maybe_end = self._handed_on = None
        if start is None:
            if end - begin <= self._min_speech:
                return
            start = yield from self._padded_start(begin)
        self._held = start, max(end, start)

    def _padded_start(self, begin: int) -> Generator[Span, None, int]:
        """Where speech that begins at `begin` starts with its padding; what was held before it ends there at most."""
        if self._held is None:
            return max(0, begin - self._pad)
        pad = min(self._pad, (begin - self._held[1]) // 2)
        yield from self._release_held(self._held[1] + pad)
        return begin - pad

    def _release_held(self, stop: int) -> Iterator[Span]:
        assert self._held is not None
        start = self._held[0]
        self._held = None
        if stop > start:
            yield Span(start, stop)

    def finish(self, length: int) -> Iterator[Span]:
        """What is left at the end of a recording of `length` samples (the last frame may reach beyond it)."""
        if self._begin is not None:
            yield from self._end_speech(length)
        if self._held is not None:
            yield from self._release_held(min(length, self._held[1] + self._pad))
