"""The options of POST /transcribe: by form or query, all as text."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from api.bodies import Body, seconds_or_text, validate
from api.errors import InvalidFields, Problem
from api.sampling import refuse_unless_neutral
from domain.cue_options import CueOptions
from domain.errors import UnsupportedParameter
from domain.languages import language_code
from domain.listening import DecodingOptions, VadOptions
from domain.transcription import SpeechTask, TranscriptionRequest

BEAM_SIZES = {"fast": 1, "accurate": 5}
CUED = ("srt", "vtt", "lrc")

# Each would change the answer and is not offered yet; listed with what it is when it is left out.
NOT_OFFERED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (5,),
    "channel": ("mix",),
    "clip_timestamps": ("",),
    "compression_ratio_threshold": (2.4,),
    "condition_on_previous_text": (False,),
    "diarize": (False,),
    "hallucination_guard": (True,),
    "highlight_words": (False,),
    "languages": ("",),
    "length_penalty": (1.0,),
    "log_prob_threshold": (-1.0,),
    "multilingual": (False,),
    "no_repeat_ngram_size": (0,),
    "no_speech_threshold": (0.6,),
    "patience": (1.0,),
    "repetition_penalty": (1.0,),
    "vad_min_silence_ms": (160,),
    "vad_min_speech_ms": (0,),
    "vad_speech_pad_ms": (400,),
    "vad_threshold": (0.5,),
}
_MANY = frozenset(("hotwords", "keywords", "languages", "temperature", "clip_timestamps"))
_OTHER_SPELLINGS = {
    "keywords[]": "keywords",
    "languages[]": "languages",
    "model_id": "model",
    "initial_prompt": "prompt",
}


class TranscribeOptions(Body):
    """What a caller may choose; everything has a default."""

    model: str | None = None
    language: str | None = None
    task: SpeechTask = SpeechTask.TRANSCRIBE
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt", "tsv", "lrc"] = "json"
    include_segments: bool = False
    word_timestamps: bool = False
    prompt: str = ""
    hotwords: str = ""
    keywords: str = ""
    preset: Literal["fast", "accurate"] | None = None
    beam_size: int | None = None
    temperature: str = "0"
    vad_filter: bool = True
    stream: bool = False
    keep_alive: float | str | None = None
    timeout: float | None = None
    priority: int = Field(0, ge=-10, le=10)
    max_line_width: int = 42
    max_line_count: int = 2
    max_cue_seconds: float = 7.0
    max_words_per_line: int = 0
    best_of: int | None = None
    channel: str | None = None
    clip_timestamps: str | None = None
    compression_ratio_threshold: float | None = None
    condition_on_previous_text: bool | None = None
    diarize: bool | None = None
    hallucination_guard: bool | None = None
    highlight_words: bool | None = None
    languages: str | None = None
    length_penalty: float | None = None
    log_prob_threshold: float | None = None
    multilingual: bool | None = None
    no_repeat_ngram_size: int | None = None
    no_speech_threshold: float | None = None
    patience: float | None = None
    repetition_penalty: float | None = None
    vad_min_silence_ms: int | None = None
    vad_min_speech_ms: int | None = None
    vad_speech_pad_ms: int | None = None
    vad_threshold: float | None = None

    def cue_options(self) -> CueOptions:
        """How cues are shaped. Raises InvalidRequest for a value out of range."""
        return CueOptions(self.max_line_width, self.max_line_count, self.max_cue_seconds, self.max_words_per_line)

    @property
    def wants_segments(self) -> bool:
        """Whether a JSON answer lists segments."""
        return self.include_segments or self.word_timestamps

    def request(self, *, beam_size: int, timeout_seconds: float, request_id: str) -> TranscriptionRequest:
        """The options as the domain has them; `beam_size` is for callers who choose neither preset nor beam."""
        if self.beam_size is not None:
            beam_size = self.beam_size
        elif self.preset is not None:
            beam_size = BEAM_SIZES[self.preset]
        return TranscriptionRequest(
            language=None if self.language is None else language_code(self.language),
            task=self.task,
            prompt=self.prompt,
            hotwords=", ".join(filter(None, (self.hotwords, self.keywords))),
            decoding=DecodingOptions(beam_size=beam_size, temperature=_temperature(self.temperature)),
            vad=VadOptions(enabled=self.vad_filter),
            timestamps=self.stream or self.wants_segments or self.response_format not in ("json", "text"),
            word_timestamps=self.word_timestamps or self.response_format == "verbose_json",
            cues=self.cue_options() if self.response_format in CUED else None,
            timeout_seconds=timeout_seconds,
            request_id=request_id,
        )


def parse_options(fields: Sequence[tuple[str, str]], query: Sequence[tuple[str, str]]) -> TranscribeOptions:
    """The options of a form and of a query string. Raises InvalidFields; one name with two values is refused."""
    form_values, query_values = _gathered(fields), _gathered(query)
    for name, value in query_values.items():
        if form_values.get(name, value) != value:
            raise InvalidFields([Problem((name,), "the query string and the form have different values")])
    options = validate(TranscribeOptions, {**form_values, **query_values}, strict=False)
    refuse_unless_neutral(options.model_dump(), NOT_OFFERED)
    return options


def _gathered(pairs: Sequence[tuple[str, str]]) -> dict[str, str | float]:
    values: dict[str, list[str]] = {}
    for given, value in pairs:
        values.setdefault(_OTHER_SPELLINGS.get(given, given), []).append(value)
    gathered: dict[str, str | float] = {}
    for name, several in values.items():
        if name in _MANY:
            gathered[name] = ",".join(several)
        elif len(set(several)) > 1:
            raise InvalidFields([Problem((name,), "is given with different values")])
        else:
            gathered[name] = seconds_or_text(several[0]) if name == "keep_alive" else several[0]
    return {name: value for name, value in gathered.items() if value != "" or name in ("language", "prompt")}


def _temperature(text: str) -> float:
    values = [value.strip() for value in text.split(",") if value.strip()]
    try:
        temperatures = [float(value) for value in values]
    except ValueError:
        raise InvalidFields([Problem(("temperature",), "must be a number between 0 and 1")]) from None
    if len(temperatures) != 1:
        raise UnsupportedParameter("a list of temperatures is not offered yet: give one number", field="temperature")
    return temperatures[0]
