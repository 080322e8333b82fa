"""The forms of the audio routes: OpenAI's fields, and beside them every option of /transcribe."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field

from api.bodies import parse_json
from api.errors import InvalidJson, UnsupportedValue
from api.openai.reading import wrong
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions, texts
from domain.errors import UnsupportedParameter
from domain.transcription import SpeechTask

Granularity = Literal["segment", "word"]
Texts = Annotated[tuple[str, ...], BeforeValidator(texts)]

STREAMED = ("json", "text")
_STRATEGY = "chunking_strategy"
_DETECTOR = {
    "threshold": "vad_threshold",
    "silence_duration_ms": "vad_min_silence_ms",
    "prefix_padding_ms": "vad_speech_pad_ms",
}


class AudioOptions(TranscribeOptions):
    """What a form may say."""

    model: str = Field(min_length=1)
    timestamp_granularities: Annotated[tuple[Granularity, ...], BeforeValidator(texts)] = ()
    include: Texts = ()
    known_speaker_names: Texts = ()
    known_speaker_references: Texts = ()

    @property
    def granularities(self) -> Sequence[Granularity]:
        """The lists that `verbose_json` has."""
        return self.timestamp_granularities or ("segment",)

    @property
    def wants_times(self) -> bool:
        """Text that is streamed needs none."""
        return self.response_format not in STREAMED

    @property
    def wants_words(self) -> bool:
        """Only where they are listed."""
        return self.response_format == "verbose_json" and "word" in self.granularities


def audio_options(fields: Sequence[tuple[str, str]], task: SpeechTask | None = None) -> AudioOptions:
    """The options of a form; `task` is the route's, if it has but one.

    Raises InvalidFields, UnsupportedValue and UnsupportedParameter naming the field.
    """
    _check_format(fields)
    given = [(name, value) for name, value in fields if not name.startswith(_STRATEGY)]
    if task is not None:
        given.append(("task", task.value))
    options = options_of(AudioOptions, form=[*given, *_detector_fields(fields)])
    for name in ("known_speaker_names", "known_speaker_references"):
        if getattr(options, name):
            raise UnsupportedParameter("speakers are not told apart here", field=name)
    if options.include:
        raise UnsupportedValue("nothing can be included: transcripts have no log probabilities here", field="include")
    if options.timestamp_granularities and options.response_format != "verbose_json":
        raise wrong("timestamp_granularities", "is for response_format verbose_json")
    if options.stream and options.response_format not in STREAMED:
        raise wrong("stream", f"is for response_format {' and '.join(STREAMED)}")
    return options


def _check_format(fields: Sequence[tuple[str, str]]) -> None:
    """Raise UnsupportedValue for a format that is OpenAI's, or ours, and not of these routes."""
    for name, value in fields:
        if name == "response_format" and value in ("diarized_json", "tsv", "lrc"):
            raise UnsupportedValue(f"response_format {value} is not offered here", field=name)


def _detector_fields(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """`chunking_strategy` as the options of the voice detector: one JSON text, or a field for each of its keys."""
    strategy: dict[str, Any] = {}
    for name, value in fields:
        if name == _STRATEGY:
            strategy |= _strategy(value)
        elif name.startswith(f"{_STRATEGY}[") and name.endswith("]"):
            strategy[name[len(_STRATEGY) + 1 : -1]] = value
    if strategy and strategy.get("type") != "server_vad":
        raise wrong(_STRATEGY, "must be 'auto' or an object of type 'server_vad'")
    return [(ours, str(strategy[theirs])) for theirs, ours in _DETECTOR.items() if theirs in strategy]


def _strategy(text: str) -> dict[str, Any]:
    if text in ("", "auto"):
        return {}
    try:
        value = parse_json(text.encode())
    except (InvalidJson, orjson.JSONDecodeError):
        value = None
    if not isinstance(value, dict):
        raise wrong(_STRATEGY, "must be 'auto' or an object of type 'server_vad'")
    return {"type": None, **value}
