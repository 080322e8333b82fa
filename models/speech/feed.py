"""From a recording that is still being decoded to windows of speech, in bounded memory."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np

from domain.listening import VadOptions
from models.speech.recording import Recording
from models.speech.spans import FRAME, SpanFinder
from models.speech.vad import VoiceDetector
from models.speech.windows import SAMPLE_RATE, Packer, Span, Window, clipped

BLOCK = 30 * SAMPLE_RATE // FRAME * FRAME
_QUIET_FRAME = SAMPLE_RATE // 20


async def windows_of(
    recording: Recording,
    vad: VadOptions,
    clips: Sequence[tuple[float, float]],
    seconds: float,
    threads: Executor | None = None,
) -> AsyncGenerator[Window, None]:
    """The windows of all channels, each of at most `seconds`, as soon as they are certain.

    The detector hears on `threads`, by default on those of the event loop. Raises what waiting for the recording
    raises.
    """
    loop = asyncio.get_running_loop()
    lanes = [_Lane(recording, channel, vad, clips, seconds) for channel in range(recording.channels)]
    position = 0
    while True:
        known = await recording.wait_beyond(position + FRAME - 1)
        stop = min(known, position + BLOCK)
        if not recording.is_done:
            stop -= (stop - position) % FRAME
        if stop > position:
            # Off the event loop: half a minute of sound takes the detector some 50 ms.
            found = await loop.run_in_executor(
                threads, lambda first, last: [lane.hear(first, last) for lane in lanes], position, stop
            )
            for window in sorted((one for several in found for one in several), key=lambda one: one.start):
                yield window
            position = stop
        if recording.is_done and position == recording.samples_known:
            break
    for lane in lanes:
        for window in lane.finish(position):
            yield window


def sound_of(recording: Recording, window: Window) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """What `window` holds, in one piece."""
    parts = [recording.sound(span.start, span.stop, window.channel) for span in window.spans]
    return np.concatenate(parts)


def quietest_of(recording: Recording, channel: int, low: int, high: int) -> int:
    """The middle of the quietest twentieth of a second between two positions."""
    low = max(0, low)
    count = (high - low) // _QUIET_FRAME
    if count < 1:
        return (low + high) // 2
    sound = recording.sound(low, low + count * _QUIET_FRAME, channel).reshape(count, _QUIET_FRAME)
    return low + int(np.argmin(np.square(sound).mean(axis=1))) * _QUIET_FRAME + _QUIET_FRAME // 2


class _Lane:
    """One channel on its way from sound to windows."""

    def __init__(
        self, recording: Recording, channel: int, vad: VadOptions, clips: Sequence[tuple[float, float]], seconds: float
    ) -> None:
        self._recording = recording
        self._channel = channel
        self._clips = clips
        self._finder = SpanFinder(vad) if vad.enabled else None
        self._detector = VoiceDetector() if vad.enabled else None
        self._packer = Packer(seconds, lambda low, high: quietest_of(recording, channel, low, high), channel)

    def hear(self, start: int, stop: int) -> list[Window]:
        """The windows that are certain once samples `start` to `stop` are known too."""
        if self._finder is None or self._detector is None:
            return list(self._packed([Span(start, stop, continues=True)]))
        heard = self._detector.probabilities(self._recording.sound(start, stop, self._channel))
        return list(self._packed(list(self._finder.add(heard))))

    def finish(self, length: int) -> Iterator[Window]:
        """The rest."""
        if self._finder is not None:
            yield from self._packed(list(self._finder.finish(length)))
        yield from self._packer.finish()

    def _packed(self, spans: Sequence[Span]) -> Iterator[Window]:
        for span in spans:
            for part in clipped(span, self._clips):
                yield from self._packer.add(part)
