"""What callers are told of a request: its segments in order, how far it is, and the transcript at the end."""

import time
from collections.abc import Iterator, Sequence

from domain.caveat import Caveat
from domain.transcription import (
    Channel,
    Progress,
    Segment,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)
from models.speech.flow import Flow
from models.speech.listener import Told
from models.speech.recording import Recording
from models.speech.segments import in_order


class Teller:
    """Numbers the segments of one request as they come. With split channels they come at the end, by time."""

    def __init__(self, request: TranscriptionRequest, flow: Flow, recording: Recording) -> None:
        self._request = request
        self._flow = flow
        self._recording = recording
        self._segments: list[Segment] = []
        self._kept_back: list[Segment] = []
        self._processed = 0.0

    def events(self, told: Told) -> Iterator[TranscriptionEvent]:
        """The events of what the owner thread tells."""
        for slot in told.slots:
            self._processed = max(self._processed, slot.window.end)
            if self._request.channel is Channel.SPLIT:
                self._kept_back.extend(slot.segments)
            else:
                yield from self._numbered(slot.segments)
            yield Progress(round(self._processed, 2), *self._recording.total)
        if told.is_last:
            yield from self._numbered(sorted(self._kept_back, key=lambda one: (one.start, one.channel or 0)))
            self._kept_back = []
            yield Progress(self._recording.seconds, self._recording.seconds)

    def _numbered(self, segments: Sequence[Segment]) -> Iterator[TranscriptionEvent]:
        for segment in segments:
            earliest = self._segments[-1].start if self._segments else 0.0
            heard = self._flow.language_heard
            if not self._segments and heard is not None:
                yield heard
            numbered = in_order(segment, len(self._segments), earliest, round(self._recording.seconds, 2))
            self._segments.append(numbered)
            yield numbered

    def seconds_left(self, told: Told) -> float:
        """Audio that is still to be done after `told`."""
        done = max((slot.window.end for slot in told.slots), default=self._processed)
        return max(0.0, (self._recording.total[0] or self._recording.seconds) - max(done, self._processed))

    def transcript(
        self,
        *,
        began_at: float | None,
        opened_at: float,
        device: str,
        compute_type: str,
        caveats: tuple[Caveat, ...],
    ) -> Transcript:
        """The whole answer. Times are monotonic: when the first window was heard, when the recording was open."""
        now = time.monotonic()
        heard = self._flow.language_heard if self._segments else None
        return Transcript(
            text="".join(segment.text for segment in self._segments).strip(),
            language=None if heard is None else heard.language,
            language_probability=0.0 if heard is None else heard.probability,
            duration=self._recording.seconds,
            duration_after_vad=self._flow.speech_seconds,
            segments=tuple(self._segments),
            task=self._request.task,
            processing_time=now - (opened_at if began_at is None else began_at),
            queue_time=0.0 if began_at is None else began_at - opened_at,
            device=device,
            compute_type=compute_type,
            warnings=(*caveats, *self._guard_caveats()),
        )

    def _guard_caveats(self) -> Iterator[Caveat]:
        counts = self._flow.counts
        for code, message, count in (
            ("windows_redone", "windows were decoded again because the first text was not believed", counts.redone),
            ("windows_dropped", "windows were taken for silence and left out", counts.dropped),
            ("repetition_removed", "windows repeated a phrase that was kept once", counts.collapsed),
            (
                "low_confidence",
                "windows were not believed whatever was tried: the likeliest text stands",
                counts.doubtful,
            ),
        ):
            if count:
                yield Caveat(code, message, count)
