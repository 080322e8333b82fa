"""Speech in windows that the model can hear at once, and the way back from a window's time to the file's.

Positions are samples at 16 kHz from the start of the file; times are seconds. Nothing here touches sound.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

SAMPLE_RATE = 16_000
BUCKETS_SECONDS = (10, 15, 20, 25, 30)
MAX_WINDOW_SECONDS = 29.0
FRAMES_PER_SECOND = 100
_SEARCH_SECONDS = 5.0
_MARGIN_SECONDS = 1.0
_EDGE_SECONDS = 0.2
"""What the model says of a border between two spans may be off by so much."""
_MIN_HALF_SECONDS = 2.0

Quietest = Callable[[int, int], int]
"""The position between two others at which the sound is quietest."""


@dataclass(frozen=True, slots=True)
class Span:
    """Samples `start` to `stop`; one that `continues` ends only because more of it is not known yet."""

    start: int
    stop: int
    continues: bool = False

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Window:
    """Spans of one channel of the file, in order, that are heard in one piece without the pauses between them."""

    spans: tuple[Span, ...]
    channel: int = 0

    @property
    def seconds(self) -> float:
        """How much sound it holds."""
        return sum(map(len, self.spans)) / SAMPLE_RATE

    @property
    def start(self) -> float:
        """Where it begins in the file."""
        return self.spans[0].start / SAMPLE_RATE

    @property
    def end(self) -> float:
        """Where it ends in the file."""
        return self.spans[-1].stop / SAMPLE_RATE

    def frames(self, *, full_length: bool) -> int:
        """How many spectral frames it is padded to: those of the smallest bucket with a second to spare, or of 30 s.

        It depends on nothing but the window, so that a text is the same alone and in company.
        """
        wanted = self.seconds + _MARGIN_SECONDS
        bucket = next((size for size in BUCKETS_SECONDS if size >= wanted), BUCKETS_SECONDS[-1])
        return (BUCKETS_SECONDS[-1] if full_length else bucket) * FRAMES_PER_SECOND

    def file_start(self, seconds: float) -> float:
        """The file's time for something that begins `seconds` into the window: never in a pause before it."""
        passed = 0.0
        for span, following in pairwise(self.spans):
            length = len(span) / SAMPLE_RATE
            if seconds < passed + length - (_EDGE_SECONDS if following.start > span.stop else 0.0):
                return (span.start / SAMPLE_RATE) + max(0.0, seconds - passed)
            passed += length
        last = self.spans[-1]
        return min(last.start / SAMPLE_RATE + max(0.0, seconds - passed), self.end)

    def file_end(self, seconds: float) -> float:
        """The file's time for something that ends `seconds` into the window: never in a pause behind it."""
        passed = 0.0
        for span, following in pairwise(self.spans):
            length = len(span) / SAMPLE_RATE
            if seconds <= passed + length + (_EDGE_SECONDS if following.start > span.stop else 0.0):
                return min(span.start / SAMPLE_RATE + max(0.0, seconds - passed), span.stop / SAMPLE_RATE)
            passed += length
        return min(self.spans[-1].start / SAMPLE_RATE + max(0.0, seconds - passed), self.end)

    def file_interval(self, start: float, end: float) -> tuple[float, float]:
        """The file's times for something short, all of it in the span that its middle lies in."""
        middle, passed = (start + end) / 2, 0.0
        for span in self.spans:
            length = len(span) / SAMPLE_RATE
            if middle < passed + length or span is self.spans[-1]:
                begin, stop = span.start / SAMPLE_RATE, span.stop / SAMPLE_RATE
                return min(max(begin, begin + start - passed), stop), max(begin, min(begin + end - passed, stop))
            passed += length
        raise AssertionError("a window has a span")

    def halves(self, quietest: Quietest) -> "tuple[Window, Window] | None":
        """Two windows in place of this one, parted at its longest pause near the middle; None if it is too short."""
        total = sum(map(len, self.spans))
        if total < 2 * _MIN_HALF_SECONDS * SAMPLE_RATE:
            return None
        best: tuple[int, int] | None = None
        passed = 0
        for index, (span, following) in enumerate(pairwise(self.spans), 1):
            passed += len(span)
            gap = following.start - span.stop
            if total // 4 <= passed <= 3 * total // 4 and gap > 0 and (best is None or gap > best[0]):
                best = gap, index
        if best is not None:
            return Window(self.spans[: best[1]], self.channel), Window(self.spans[best[1] :], self.channel)
        return self._parted_at_quietest(total // 2, total // 8, quietest)

    def _parted_at_quietest(self, middle: int, reach: int, quietest: Quietest) -> "tuple[Window, Window]":
        passed = 0
        for index, span in enumerate(self.spans):  # noqa: B007 -- used after the loop
            if passed + len(span) > middle:
                break
            passed += len(span)
        low = max(span.start + 1, span.start + middle - passed - reach)
        high = min(span.stop - 1, span.start + middle - passed + reach)
        cut = min(max(quietest(low, high), span.start + 1), span.stop - 1)
        before = (*self.spans[:index], Span(span.start, cut))
        after = (Span(cut, span.stop), *self.spans[index + 1 :])
        return Window(before, self.channel), Window(after, self.channel)


class Packer:
    """Packs spans, as they come, densely into windows of at most `seconds`."""

    def __init__(self, seconds: float, quietest: Quietest, channel: int = 0) -> None:
        self._limit = int(min(seconds, MAX_WINDOW_SECONDS) * SAMPLE_RATE)
        self._quietest = quietest
        self._channel = channel
        self._packed: list[Span] = []
        self._open: Span | None = None

    def add(self, span: Span) -> Iterator[Window]:
        """The windows that are full now that `span`, the next one, is known."""
        if self._open is not None:
            before, self._open = self._open, None
            if before.stop == span.start:
                span = Span(before.start, span.stop, span.continues)
            else:
                yield from self.add(Span(before.start, before.stop))
        search = int(_SEARCH_SECONDS * SAMPLE_RATE)
        while len(span) > self._limit:
            if self._limit - self._filled() <= search:
                yield from self.finish()
            latest = span.start + self._limit - self._filled()
            cut = min(max(self._quietest(latest - search, latest), span.start + 1), latest)
            self._packed.append(Span(span.start, cut))
            yield from self.finish()
            span = Span(cut, span.stop, span.continues)
        if span.continues:
            self._open = span
            return
        if self._filled() + len(span) > self._limit:
            yield from self.finish()
        if len(span):
            self._packed.append(span)

    def finish(self) -> Iterator[Window]:
        """What is packed so far; called once more when no span follows."""
        if self._open is not None:
            last, self._open = self._open, None
            yield from self.add(Span(last.start, last.stop))
        if self._packed:
            yield Window(tuple(self._packed), self._channel)
            self._packed = []

    def _filled(self) -> int:
        return sum(map(len, self._packed))


def clipped(span: Span, clips: Sequence[tuple[float, float]]) -> Iterable[Span]:
    """The parts of `span` that lie in `clips` (seconds, ascending); all of it if there are none."""
    if not clips:
        return (span,)
    parts = []
    for start, end in clips:
        first, stop = max(span.start, round(start * SAMPLE_RATE)), min(span.stop, round(end * SAMPLE_RATE))
        if first < stop:
            parts.append(Span(first, stop, span.continues and stop == span.stop))
    return parts
