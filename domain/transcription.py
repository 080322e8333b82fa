"""A speech request and what comes back."""

import math
from dataclasses import dataclass
from enum import StrEnum

from domain.errors import InvalidRequest
from domain.languages import language_code

MAX_PROMPT_BYTES = 2048


class SpeechTask(StrEnum):
    """Write down what is said, or say it in English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """How to listen. `language` is given as a code or an English name and kept as a code; None or `auto` detects it.

    `temperature` 0 decodes greedily and falls back to warmer decodings where that fails; a positive one is
    the only one tried. Raises InvalidRequest with the field's name for a value out of range.
    """

    language: str | None = None
    task: SpeechTask = SpeechTask.TRANSCRIBE
    prompt: str = ""
    hotwords: str = ""
    temperature: float = 0.0
    beam_size: int = 1
    vad_filter: bool = True
    word_timestamps: bool = False
    timeout_seconds: float | None = None
    request_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", language_code(self.language))
        if not 1 <= self.beam_size <= 10:
            raise InvalidRequest("beam_size must be between 1 and 10", field="beam_size")
        if not (math.isfinite(self.temperature) and 0.0 <= self.temperature <= 1.0):
            raise InvalidRequest("temperature must be between 0 and 1", field="temperature")
        for name, text in (("prompt", self.prompt), ("hotwords", self.hotwords)):
            if len(text.encode("utf-8", "surrogatepass")) > MAX_PROMPT_BYTES:
                raise InvalidRequest(f"{name} must have at most {MAX_PROMPT_BYTES} bytes", field=name)
        if self.timeout_seconds is not None and not 0 < self.timeout_seconds <= 86_400:
            raise InvalidRequest("timeout must be above 0 and at most 86400 seconds", field="timeout")


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word; times are seconds from the start of the file; `text` is raw, with Whisper's leading space."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech; `text` is raw, with Whisper's leading space."""

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the audio is done, in seconds; `total` is None while the length is unknown."""

    processed: float
    total: float | None


@dataclass(frozen=True, slots=True)
class Caveat:
    """Something that a caller should know about an answer that was given all the same."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The whole answer. No speech is an answer too: empty text, no language, no segments."""

    text: str
    language: str | None
    language_probability: float
    duration: float
    duration_after_vad: float
    segments: tuple[Segment, ...]
    task: SpeechTask
    processing_time: float
    queue_time: float = 0.0
    device: str = ""
    compute_type: str = ""
    warnings: tuple[Caveat, ...] = ()


TranscriptionEvent = Progress | Segment | Transcript
