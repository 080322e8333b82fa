"""A speech recogniser that hears what the test wants."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from domain.caveat import Caveat
from domain.model import Model
from domain.rung import Rung
from domain.transcription import (
    DetectedLanguage,
    DetectionRequest,
    LanguageHeard,
    Progress,
    Segment,
    SpeechQueue,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)
from tests.fakes.gate import Gate
from tests.fakes.loaded import FakeLoadedModel


def segment(number: int, text: str, start: float | None = None, end: float | None = None) -> Segment:
    """A plausible segment; by default two seconds long and right after the one before it."""
    return Segment(
        id=number,
        start=2.0 * number if start is None else start,
        end=2.0 * number + 2.0 if end is None else end,
        text=text,
        avg_logprob=-0.2,
        no_speech_prob=0.01,
        compression_ratio=1.3,
        temperature=0.0,
    )


@dataclass
class SpeechScript:
    """What a FakeSpeechModel hears; shared by every load of the same model, changeable at any time.

    `before_first` holds a request in the queue, `between` holds it before each segment but the first and
    before the transcript. `error` is raised before segment number `error_after`, or before the transcript
    when there are not so many. No segments means silence. `queue` is what `queue` tells; `rungs` and `caveats` are
    those of the next load.
    """

    segments: Sequence[Segment] = (segment(0, " Hello world."), segment(1, " How are you?"))
    language: str = "en"
    language_probability: float = 0.99
    duration: float | None = None
    warnings: Sequence[Caveat] = ()
    before_first: Gate = field(default_factory=Gate)
    between: Gate = field(default_factory=Gate)
    error: Exception | None = None
    error_after: int = 0
    queue: SpeechQueue = field(default_factory=SpeechQueue)
    rungs: tuple[Rung, ...] = ()
    caveats: tuple[Caveat, ...] = ()


@dataclass(frozen=True)
class Heard:
    """One call of `transcribe`: the file, what was in it then, and how it was to be listened to."""

    audio: Path
    content: bytes
    request: TranscriptionRequest


class FakeSpeechModel(FakeLoadedModel):
    """A SpeechModel. `heard` and `asked` keep the calls in order."""

    def __init__(self, info: Model, script: SpeechScript, violations: list[str] | None = None) -> None:
        super().__init__(info, [] if violations is None else violations)
        self.script = script
        self.heard: list[Heard] = []
        self.asked: list[DetectionRequest] = []

    @property
    def queue(self) -> SpeechQueue:
        """What the script says."""
        return self.script.queue

    async def transcribe(self, audio: Path, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionEvent, None]:
        """Answer by the script: Progress, LanguageHeard, each Segment with its Progress, the Transcript."""
        async with self.working(request.timeout_seconds) as work:
            self._listen(audio, request)
            script = self.script
            segments = tuple(script.segments)
            total = self._duration(segments)
            await self.admit(work, script.before_first)
            for index, spoken in enumerate(segments):
                if index > 0:
                    await work.pause(script.between)
                self._fail_at(index)
                yield Progress(spoken.start, total)
                if index == 0:
                    yield self._language(request)
                yield spoken
            if segments:
                await work.pause(script.between)
            self._fail_at(len(segments), is_last=True)
            yield Progress(total, total)
            yield self._transcript(segments, total, request, work.seconds())

    async def detect_language(self, audio: Path, request: DetectionRequest) -> DetectedLanguage:
        """The script's language, if it holds any speech."""
        async with self.working(request.timeout_seconds) as work:
            self.asked.append(request)
            segments = tuple(self.script.segments)
            await self.admit(work, self.script.before_first)
            self._fail_at(0, is_last=True)
            heard = ((self.script.language, self.script.language_probability),) if segments else ()
            return DetectedLanguage(heard, min(request.windows, len(segments)), self._duration(segments))

    def _language(self, request: TranscriptionRequest) -> LanguageHeard:
        if request.language is not None:
            return LanguageHeard(request.language, 1.0)
        return LanguageHeard(self.script.language, self.script.language_probability)

    def _listen(self, audio: Path, request: TranscriptionRequest) -> None:
        self.heard.append(Heard(audio, audio.read_bytes(), request))

    def _duration(self, segments: Sequence[Segment]) -> float:
        if self.script.duration is not None:
            return self.script.duration
        return segments[-1].end if segments else 1.0

    def _fail_at(self, index: int, *, is_last: bool = False) -> None:
        if self.script.error is not None and (self.script.error_after == index or is_last):
            raise self.script.error

    def _transcript(
        self, segments: tuple[Segment, ...], duration: float, request: TranscriptionRequest, seconds: float
    ) -> Transcript:
        return Transcript(
            text="".join(spoken.text for spoken in segments).strip(),
            language=(request.language or self.script.language) if segments else None,
            language_probability=(1.0 if request.language else self.script.language_probability) if segments else 0.0,
            duration=duration,
            duration_after_vad=sum(spoken.end - spoken.start for spoken in segments),
            segments=segments,
            task=request.task,
            processing_time=seconds,
            device=self.info.device,
            compute_type=self.info.quantization,
            warnings=(*self.info.caveats, *self.script.warnings),
        )
