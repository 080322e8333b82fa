"""A speech request and what comes back."""

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from domain.caveat import Caveat
from domain.cue_options import CueOptions
from domain.errors import InvalidRequest
from domain.generation import MAX_PRIORITY
from domain.languages import language_code, language_codes
from domain.listening import DecodingOptions, GuardOptions, VadOptions, check_range

MAX_PROMPT_BYTES = 2048
MAX_CLIPS = 500
MAX_TIMEOUT_SECONDS = 86_400


class SpeechTask(StrEnum):
    """Write down what is said, or say it in English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Channel(StrEnum):
    """What is listened to in a recording of several channels: all mixed, one side, or each by itself."""

    MIX = "mix"
    LEFT = "left"
    RIGHT = "right"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """How to listen.

    `language` is given as a code or an English name and kept as a code; None or `auto` detects it, among
    `languages` if there are any; `multilingual` detects it anew for each window. `prompt` and `hotwords` are shown
    to the model before every window. `clips` are the only spans (start and end in seconds, ascending) that are
    listened to; none is the whole file. `timestamps` are wanted wherever segments are; without them there is one
    segment a window. `cues` says that cues are to be cut, so that what does not fit into one has words.
    `client` and `priority` decide whose turn it is; `interactive` is false for work that nobody waits for.
    Raises InvalidRequest with the field's name for a value out of range.
    """

    language: str | None = None
    languages: tuple[str, ...] = ()
    multilingual: bool = False
    task: SpeechTask = SpeechTask.TRANSCRIBE
    prompt: str = ""
    hotwords: str = ""
    condition_on_previous_text: bool = False
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    guard: GuardOptions = field(default_factory=GuardOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    clips: tuple[tuple[float, float], ...] = ()
    channel: Channel = Channel.MIX
    timestamps: bool = True
    word_timestamps: bool = False
    cues: CueOptions | None = None
    timeout_seconds: float | None = None
    priority: int = 0
    client: str = ""
    interactive: bool = True
    request_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", language_code(self.language))
        object.__setattr__(self, "languages", language_codes(self.languages))
        if self.language is not None and self.languages:
            raise InvalidRequest("languages are for detection: leave them out or leave language out", field="languages")
        if self.language is not None and self.multilingual:
            raise InvalidRequest("multilingual detects the language: leave language out", field="multilingual")
        for name, text in (("prompt", self.prompt), ("hotwords", self.hotwords)):
            if len(text.encode("utf-8", "surrogatepass")) > MAX_PROMPT_BYTES:
                raise InvalidRequest(f"{name} must have at most {MAX_PROMPT_BYTES} bytes", field=name)
        _check_clips(self.clips)
        check_timeout(self.timeout_seconds)
        check_range("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)

    @property
    def wants_timestamps(self) -> bool:
        """Whether the model has to say when each segment begins and ends."""
        return self.timestamps or self.word_timestamps or self.cues is not None

    @property
    def wants_words(self) -> bool:
        """Whether every word has to have its times."""
        return self.word_timestamps or (self.cues is not None and self.cues.highlight_words)


@dataclass(frozen=True, slots=True)
class DetectionRequest:
    """Which language is spoken: heard in `windows` stretches of speech (1 to 10) that are spread over the file.

    Raises InvalidRequest with the field's name for a value out of range.
    """

    windows: int = 1
    languages: tuple[str, ...] = ()
    vad: VadOptions = field(default_factory=VadOptions)
    timeout_seconds: float | None = None
    priority: int = 0
    client: str = ""
    request_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", language_codes(self.languages))
        check_range("windows", self.windows, 1, 10)
        check_timeout(self.timeout_seconds)
        check_range("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)


def check_timeout(seconds: float | None) -> None:
    """Raise InvalidRequest naming `timeout` unless `seconds` is a time that work may take, or None for no limit."""
    if seconds is not None and not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise InvalidRequest(f"timeout must be above 0 and at most {MAX_TIMEOUT_SECONDS} seconds", field="timeout")


def _check_clips(clips: tuple[tuple[float, float], ...]) -> None:
    if len(clips) > MAX_CLIPS:
        raise InvalidRequest(f"clip_timestamps must name at most {MAX_CLIPS} spans", field="clip_timestamps")
    reached = 0.0
    for start, end in clips:
        if not (isfinite(start) and isfinite(end) and reached <= start < end):
            raise InvalidRequest(
                "clip_timestamps must be pairs of seconds, start before end, that ascend and do not overlap",
                field="clip_timestamps",
            )
        reached = end


# -- the answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word; times are seconds from the start of the file; `text` is raw, with Whisper's leading space."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech; `text` is raw, with Whisper's leading space.

    `seek` is where its window begins, in hundredths of a second from the start of the file; `tokens` are the
    model's. `language` is set where each window has its own, `channel` (0 or 1) where channels are split.
    """

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    words: tuple[Word, ...] = ()
    seek: int = 0
    tokens: tuple[int, ...] = ()
    language: str | None = None
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class LanguageHeard:
    """The language that the recording is taken to be in, with its probability (1 if the caller named it)."""

    language: str
    probability: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the audio is done, in seconds.

    `total` is None while nothing is known of the length, and `estimated` while it is only the file's claim.
    """

    processed: float
    total: float | None
    estimated: bool = False


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


TranscriptionEvent = Progress | LanguageHeard | Segment | Transcript


@dataclass(frozen=True, slots=True)
class DetectedLanguage:
    """Languages by probability, at most five, the likeliest first; none if there is no speech.

    `windows` were listened to, of a recording of `duration` seconds.
    """

    candidates: tuple[tuple[str, float], ...]
    windows: int
    duration: float


@dataclass(frozen=True, slots=True)
class SpeechQueue:
    """What a speech model has before it.

    `real_time_factor` is seconds of audio done in a second, and like `eta_seconds` None before the first batch.
    """

    active_requests: int = 0
    waiting_windows: int = 0
    waiting_audio_seconds: float = 0.0
    last_batch_rows: int = 0
    real_time_factor: float | None = None

    @property
    def eta_seconds(self) -> float | None:
        """How long what waits will take."""
        return self.waiting_audio_seconds / self.real_time_factor if self.real_time_factor else None
