"""The owner of the device: takes batches of windows from all requests, hears them, and tells each request its part.

Requests come and go from the event loop; the model is touched by the owner thread only. One lock guards the queue
and the flows, and is never held while the model works.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from domain.cues import fits_a_cue
from domain.errors import GenerationFailed, IngleError, InsufficientMemory
from domain.transcription import SpeechTask
from models.speech.batcher import Batcher
from models.speech.flow import Flow, Row, Slot
from models.speech.guard import Decoded
from models.speech.segments import SpokenWord, segments_of
from models.speech.whisper import Ears, Sound
from models.speech.windows import Window

log = logging.getLogger(__name__)
_SPEED_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Told:
    """Windows of a request that are done, in order, and whether that was all; or why there will be no more."""

    slots: tuple[Slot, ...] = ()
    is_last: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class Work:
    """A request: its windows, where their sound is, and whom to tell, on the owner thread."""

    flow: Flow
    sound: Callable[[Window], Sound]
    tell: Callable[[Told], None]
    began_at: float | None = None


class Listener:
    """A `models.inference_thread.Stepper`: one batch a step."""

    def __init__(self, ears: Ears, *, max_rows: int, wait_seconds: float) -> None:
        self.ears = ears
        self.last_rows = 0
        self.speed: float | None = None
        self._batcher: Batcher[Row] = Batcher(max_rows, wait_seconds)
        self._works: dict[Flow, Work] = {}
        self._lock = threading.Lock()
        self._is_suspended = False

    @property
    def max_rows(self) -> int:
        """Windows in a batch, at most."""
        return self._batcher.max_rows

    @property
    def waiting_windows(self) -> int:
        """How many rows are in the queue."""
        with self._lock:
            return sum(len(line.rows) for line in self._batcher)

    # -- requests, from the event loop ----------------------------------------------------------------

    def enter(self, work: Work) -> None:
        """`work` has windows to come."""
        with self._lock:
            self._works[work.flow] = work
            self._batcher.enter(work.flow.line)

    def leave(self, work: Work) -> None:
        """Nobody wants to hear more of `work`: what waits is dropped, what is under way is thrown away."""
        with self._lock:
            self._works.pop(work.flow, None)
            self._batcher.leave(work.flow.line)

    def add(self, work: Work, window: Window) -> None:
        """The next window of `work`."""
        with self._lock:
            self._queue(work.flow, work.flow.add(window))

    def end(self, work: Work) -> None:
        """`work` has no more windows."""
        with self._lock:
            self._queue(work.flow, work.flow.end())
            is_over = work.flow.is_over
        if is_over:
            work.tell(Told(is_last=True))

    def hurry(self) -> None:
        """The time to wait for company is over."""
        with self._lock:
            self._batcher.hurry()

    def _queue(self, flow: Flow, rows: Sequence[Row]) -> None:
        self._batcher.add(flow.line, rows, time.monotonic())

    # -- the weights, on the owner thread -------------------------------------------------------------

    def suspend(self, *, to_host: bool) -> None:
        """Take the weights out of memory, as `Ears.close` does; windows wait in the queue."""
        self.ears.close(to_host=to_host)
        self._is_suspended = True

    def resume(self, ears: Ears, max_rows: int) -> None:
        """Go on with other `ears` of the same model, which batches of `max_rows` suit."""
        self.ears = ears
        with self._lock:
            # Less than that may have been found to fit.
            self._batcher.max_rows = min(self._batcher.max_rows, max_rows)
        self._is_suspended = False

    def close(self, *, to_host: bool) -> None:
        """Take the weights out of memory for good, if they are not gone."""
        if not self._is_suspended:
            self.ears.close(to_host=to_host)

    # -- batches, on the owner thread -----------------------------------------------------------------

    def step(self) -> bool:
        """Hear one batch; False if there is none, or none yet."""
        if self._is_suspended:
            return False
        with self._lock:
            rows = [row for _line, row in self._batcher.next(time.monotonic())]
        if not rows:
            return False
        started = time.monotonic()
        self.last_rows = len(rows)
        try:
            self._hear(rows)
        except Exception as error:
            self._recover(rows, error)
        took = max(1e-6, time.monotonic() - started)
        speed = sum(row.seconds for row in rows) / took
        self.speed = speed if self.speed is None else self.speed + _SPEED_WEIGHT * (speed - self.speed)
        return True

    def _recover(self, rows: Sequence[Row], error: Exception) -> None:
        """A batch failed: smaller batches if memory ran out, else row by row, so that only the culprit fails."""
        if _is_out_of_memory(error) and len(rows) > 1:
            log.warning("the device ran out of memory: batches have %d windows from now on", len(rows) // 2)
            with self._lock:
                self._batcher.max_rows = max(1, len(rows) // 2)
                for row in reversed(rows):
                    self._batcher.put_back(row.flow.line, [row])
            return
        for row in rows if len(rows) > 1 else ():
            try:
                self._hear([row])
            except Exception as own:
                self._fail(row.flow, own)
        if len(rows) == 1:
            self._fail(rows[0].flow, error)

    def _hear(self, rows: Sequence[Row]) -> None:
        rows, sounds = self._sounds(rows)
        if not rows:
            return
        encoded = self.ears.encode(sounds, rows[0].key.frames)
        self._hear_languages(encoded, rows)
        with self._lock:
            able = [i for i, row in enumerate(rows) if row.key.decodes and row.flow.language_of(row.slot) is not None]
        voices = [_voice(rows[i]) for i in able]
        said: list[Decoded] = []
        if able:
            said = self.ears.decode(
                encoded,
                able,
                rows[able[0]].key,
                voices,
                [rows[i].prompt for i in able],
                [rows[i].seconds for i in able],
            )
        # From here on requests are told, so nothing may be heard twice: a failure is that of its own request.
        self._hold([row for i, row in enumerate(rows) if i not in set(able)])
        believed = list(self._judge([(i, rows[i]) for i in able], said))
        self._settle(encoded, believed)
        self._tell({row.flow for row in rows})

    def _sounds(self, rows: Sequence[Row]) -> tuple[list[Row], list[Sound]]:
        """The rows whose requests are still here, with their sound."""
        kept, sounds = [], []
        for row in rows:
            work = self._works.get(row.flow)
            if work is None:
                continue
            try:
                sound = work.sound(row.slot.window)
            except IngleError as error:
                self._fail(row.flow, error)
                continue
            work.began_at = work.began_at or time.monotonic()
            kept.append(row)
            sounds.append(sound)
        return kept, sounds

    def _hear_languages(self, encoded: Any, rows: Sequence[Row]) -> None:
        while True:
            with self._lock:
                wanted = [i for i, row in enumerate(rows) if row.flow.wants_language(row.slot)]
            if not wanted:
                return
            heard = self.ears.languages(encoded, wanted)
            with self._lock:
                for i, probabilities in zip(wanted, heard, strict=True):
                    rows[i].flow.hear_language(rows[i].slot, probabilities)

    def _hold(self, rows: Sequence[Row]) -> None:
        by_flow: dict[Flow, list[Row]] = {}
        for row in rows:
            by_flow.setdefault(row.flow, []).append(row)
        with self._lock:
            for flow, mine in by_flow.items():
                self._queue(flow, flow.hold(mine))

    def _judge(self, rows: Sequence[tuple[int, Row]], said: Sequence[Decoded]) -> Iterator[tuple[int, Row, Decoded]]:
        """What is believed; the rest is back in the queue, before what has not been heard at all."""
        with self._lock:
            for (i, row), decoded in zip(rows, said, strict=True):
                believed, again = row.flow.judge(row, decoded)
                self._batcher.put_back(row.flow.line, again)
                if believed is not None:
                    yield i, row, believed

    def _settle(self, encoded: Any, believed: Sequence[tuple[int, Row, Decoded]]) -> None:
        words: dict[int, list[list[SpokenWord]]] = {}
        wordless = sorted((one for one in believed if _needs_words(one[1], one[2])), key=lambda one: _voice(one[1]))
        for voice, group in groupby(wordless, key=lambda one: _voice(one[1])):
            mine = list(group)
            try:
                aligned = self.ears.align(
                    encoded, [i for i, _, _ in mine], voice, [said for _, _, said in mine],
                    [row.seconds for _, row, _ in mine],
                )  # fmt: skip
            except Exception as error:
                for _, row, _ in mine:
                    self._fail(row.flow, error)
                continue
            words.update({i: found for (i, _, _), found in zip(mine, aligned, strict=True)})
        with self._lock:
            for i, row, decoded in believed:
                self._queue(row.flow, row.flow.settle(row.slot, decoded, words.get(i, ())))

    def _tell(self, flows: "set[Flow]") -> None:
        for flow in flows:
            with self._lock:
                work = self._works.get(flow)
                told = Told(tuple(flow.take_done()), flow.is_over)
            if work is not None:
                work.tell(told)

    def _fail(self, flow: Flow, error: Exception) -> None:
        with self._lock:
            work = self._works.pop(flow, None)
            self._batcher.leave(flow.line)
        if work is None:
            return
        if _is_out_of_memory(error):
            error = InsufficientMemory("there is not enough memory on the device for this recording")
        elif not isinstance(error, IngleError):
            log.error("the speech model failed", exc_info=error)
            failure = GenerationFailed(f"the speech model failed on this recording: {error}")
            failure.__cause__ = error
            error = failure
        work.tell(Told(error=error))


def _voice(row: Row) -> tuple[str, SpeechTask]:
    language = row.flow.language_of(row.slot)
    assert language is not None
    return language, row.flow.request.task


def _needs_words(row: Row, decoded: Decoded) -> bool:
    request = row.flow.request
    if not decoded.text.strip():
        return False
    if request.wants_words:
        return True
    cues = request.cues
    return cues is not None and not all(
        fits_a_cue(segment, cues) for segment in segments_of(row.slot.window, decoded, ())
    )


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "ALLOC_FAILED" in str(error)
