"""What a caller may choose of how a recording is heard: as a form, a query string, JSON, or two of them together."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from starlette.requests import Request

from api.bodies import Body
from api.request_ids import request_id_of
from api.sampling import client_of, deadline_of, refuse_unless_neutral
from api.services import Services
from domain.cue_options import CueOptions
from domain.listening import DecodingOptions, GuardOptions, Preset, VadOptions
from domain.transcription import Channel, DetectionRequest, SpeechTask, TranscriptionRequest

CUED = ("srt", "vtt", "lrc")
HIGHLIGHTED = ("srt", "vtt")
WITHOUT_TIMES = ("json", "text")


def _one_of(kind: type[StrEnum]) -> BeforeValidator:
    """Enumerations come as their values, in JSON too."""

    def read(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"must be {', '.join(kind)}") from None

    return BeforeValidator(read)


def texts(value: Any) -> Any:
    """Names, separated by commas or as a list, or both."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise ValueError("must be names separated by commas, or a list of names")
    return tuple(name for one in values for part in one.split(",") if (name := part.strip()))


def _joined(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(filter(None, (one.strip() for one in value)))
    return value


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, list | tuple) else [value]
    numbers: list[float] = []
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise ValueError("must be numbers")
        try:
            parts = one.split(",") if isinstance(one, str) else [one]
            numbers += [float(part) for part in parts]
        except (ValueError, OverflowError):
            raise ValueError("must be numbers, separated by commas") from None
    return numbers


def _ladder(value: Any) -> float | tuple[float, ...]:
    """One temperature is tried alone, several one after another."""
    numbers = _numbers(value)
    return numbers[0] if len(numbers) == 1 and not isinstance(value, list) else tuple(numbers)


def _clips(value: Any) -> tuple[tuple[float, float], ...]:
    numbers = _numbers(value)
    if len(numbers) % 2:
        raise ValueError("must be pairs of seconds: start, end, start, end …")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _gate(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() == "null" else value


Gate = Annotated[float | None, BeforeValidator(_gate)]


class ListeningOptions(Body):
    """What transcription and language detection share."""

    model: str | None = None
    languages: Annotated[tuple[str, ...], BeforeValidator(texts)] = ()
    vad_filter: bool = True
    vad_threshold: float = 0.5
    vad_min_silence_ms: int = 160
    vad_min_speech_ms: int = 0
    vad_speech_pad_ms: int = 400
    keep_alive: float | str | None = None
    timeout: float | None = None
    priority: int = 0

    def vad(self) -> VadOptions:
        """What counts as speech. Raises InvalidRequest for a value out of range."""
        return VadOptions(
            enabled=self.vad_filter,
            threshold=self.vad_threshold,
            min_silence_ms=self.vad_min_silence_ms,
            min_speech_ms=self.vad_min_speech_ms,
            speech_pad_ms=self.vad_speech_pad_ms,
        )

    def model_or_default(self, services: Services) -> str:
        """The name that was asked for, or the one that stands in."""
        return self.model or services.defaults.speech_model

    def seconds(self, services: Services, request: Request) -> float:
        """How long the answer may take."""
        return deadline_of(request, self.timeout, services.limits.transcription_seconds)


class DetectOptions(ListeningOptions):
    """The options of language detection; it hears the whole recording, all channels mixed."""

    windows: int = 1
    channel: Annotated[Channel, _one_of(Channel)] = Channel.MIX
    clip_timestamps: Annotated[tuple[tuple[float, float], ...], BeforeValidator(_clips)] = ()

    def request(self, services: Services, request: Request) -> DetectionRequest:
        """The options as the domain has them. Raises InvalidRequest and UnsupportedParameter naming the field."""
        refuse_unless_neutral(
            {"channel": self.channel, "clip_timestamps": self.clip_timestamps},
            {"channel": (Channel.MIX,), "clip_timestamps": ((),)},
        )
        return DetectionRequest(
            windows=self.windows,
            languages=self.languages,
            vad=self.vad(),
            timeout_seconds=self.seconds(services, request),
            priority=self.priority,
            client=client_of(request),
            request_id=request_id_of(request.scope),
        )


class TranscribeOptions(ListeningOptions):
    """The options of a transcription; everything has a default."""

    language: str | None = None
    multilingual: bool = False
    task: Annotated[SpeechTask, _one_of(SpeechTask)] = SpeechTask.TRANSCRIBE
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt", "tsv", "lrc"] = "json"
    include_segments: bool = False
    word_timestamps: bool = False
    prompt: str = ""
    hotwords: Annotated[str, BeforeValidator(_joined)] = ""
    condition_on_previous_text: bool = False
    preset: Annotated[Preset | None, _one_of(Preset)] = None
    beam_size: int | None = None
    best_of: int = 5
    patience: float = 1.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: Annotated[float | tuple[float, ...], BeforeValidator(_ladder)] = 0.0
    compression_ratio_threshold: Gate = 2.4
    log_prob_threshold: Gate = -1.0
    no_speech_threshold: Gate = 0.6
    hallucination_guard: bool = True
    clip_timestamps: Annotated[tuple[tuple[float, float], ...], BeforeValidator(_clips)] = ()
    channel: Annotated[Channel, _one_of(Channel)] = Channel.MIX
    max_line_width: int = 42
    max_line_count: int = 2
    max_cue_seconds: float = 7.0
    max_words_per_line: int = 0
    highlight_words: bool = False
    diarize: bool = False
    stream: bool = False

    def as_json(self) -> dict[str, Any]:
        """What was said of these options, so that it may be read again as a JSON body."""
        said = self.model_dump(mode="json", exclude_unset=True)
        if "clip_timestamps" in said:
            said["clip_timestamps"] = [second for pair in self.clip_timestamps for second in pair]
        return said

    def cue_options(self) -> CueOptions:
        """How cues are shaped. Raises InvalidRequest for a value out of range."""
        return CueOptions(
            self.max_line_width,
            self.max_line_count,
            self.max_cue_seconds,
            self.max_words_per_line,
            highlight_words=self.highlight_words and self.response_format in HIGHLIGHTED,
        )

    @property
    def wants_segments(self) -> bool:
        """Whether a JSON answer lists segments."""
        return self.include_segments or self.word_timestamps

    @property
    def wants_times(self) -> bool:
        """Whether it has to be known when each segment begins and ends."""
        return self.stream or self.wants_segments or self.response_format not in WITHOUT_TIMES

    @property
    def wants_words(self) -> bool:
        """Whether every word has to have its times."""
        return self.word_timestamps or self.response_format == "verbose_json"

    def domain_request(
        self,
        *,
        beam_size: int,
        timeout_seconds: float,
        client: str = "",
        request_id: str = "",
        interactive: bool = True,
    ) -> TranscriptionRequest:
        """The options as the domain has them; `beam_size` is for callers who choose neither preset nor beam.

        Raises InvalidRequest and UnsupportedParameter naming the field.
        """
        refuse_unless_neutral({"diarize": self.diarize}, {"diarize": (False,)})
        if self.beam_size is not None:
            beam_size = self.beam_size
        elif self.preset is not None:
            beam_size = self.preset.beam_size
        # A width that no cue can have is refused whatever the format.
        cues = self.cue_options()
        return TranscriptionRequest(
            language=self.language,
            languages=self.languages,
            multilingual=self.multilingual,
            task=self.task,
            prompt=self.prompt,
            hotwords=self.hotwords,
            condition_on_previous_text=self.condition_on_previous_text,
            decoding=DecodingOptions(
                beam_size=beam_size,
                best_of=self.best_of,
                patience=self.patience,
                length_penalty=self.length_penalty,
                repetition_penalty=self.repetition_penalty,
                no_repeat_ngram_size=self.no_repeat_ngram_size,
                temperature=self.temperature,
            ),
            guard=GuardOptions(
                enabled=self.hallucination_guard,
                compression_ratio_threshold=self.compression_ratio_threshold,
                log_prob_threshold=self.log_prob_threshold,
                no_speech_threshold=self.no_speech_threshold,
            ),
            vad=self.vad(),
            clips=self.clip_timestamps,
            channel=self.channel,
            timestamps=self.wants_times,
            word_timestamps=self.wants_words,
            cues=cues if self.response_format in CUED else None,
            timeout_seconds=timeout_seconds,
            priority=self.priority,
            client=client,
            interactive=interactive,
            request_id=request_id,
        )

    def request(self, services: Services, request: Request) -> TranscriptionRequest:
        """The same for somebody who waits for the answer."""
        return self.domain_request(
            beam_size=services.defaults.speech_beam_size,
            timeout_seconds=self.seconds(services, request),
            client=client_of(request),
            request_id=request_id_of(request.scope),
        )
