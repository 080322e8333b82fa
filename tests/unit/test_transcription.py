import math

import pytest

from domain.cue_options import CueOptions
from domain.errors import InvalidRequest
from domain.listening import DecodingOptions, GuardOptions, Preset, VadOptions
from domain.transcription import (
    MAX_CLIPS,
    MAX_PROMPT_BYTES,
    DetectionRequest,
    SpeechQueue,
    SpeechTask,
    TranscriptionRequest,
)

KINDS = {
    "request": TranscriptionRequest,
    "detection": DetectionRequest,
    "decoding": DecodingOptions,
    "guard": GuardOptions,
    "vad": VadOptions,
    "cues": CueOptions,
}
RANGES = [
    ("decoding", "beam_size", "beam_size", 1, 10),
    ("decoding", "best_of", "best_of", 1, 10),
    ("decoding", "patience", "patience", 0.5, 3.0),
    ("decoding", "length_penalty", "length_penalty", 0.1, 3.0),
    ("decoding", "repetition_penalty", "repetition_penalty", 1.0, 2.0),
    ("decoding", "no_repeat_ngram_size", "no_repeat_ngram_size", 0, 10),
    ("decoding", "temperature", "temperature", 0.0, 1.0),
    ("guard", "compression_ratio_threshold", "compression_ratio_threshold", 1.0, 10.0),
    ("guard", "log_prob_threshold", "log_prob_threshold", -10.0, 0.0),
    ("guard", "no_speech_threshold", "no_speech_threshold", 0.0, 1.0),
    ("vad", "threshold", "vad_threshold", 0.05, 0.95),
    ("vad", "min_silence_ms", "vad_min_silence_ms", 0, 10_000),
    ("vad", "min_speech_ms", "vad_min_speech_ms", 0, 5_000),
    ("vad", "speech_pad_ms", "vad_speech_pad_ms", 0, 1_000),
    ("cues", "max_line_width", "max_line_width", 10, 200),
    ("cues", "max_line_count", "max_line_count", 1, 4),
    ("cues", "max_cue_seconds", "max_cue_seconds", 1.0, 30.0),
    ("cues", "max_words_per_line", "max_words_per_line", 0, 50),
    ("request", "priority", "priority", -10, 10),
    ("request", "timeout_seconds", "timeout", 0.001, 86_400.0),
    ("detection", "windows", "windows", 1, 10),
    ("detection", "timeout_seconds", "timeout", 0.001, 86_400.0),
]


@pytest.mark.parametrize(("kind", "name", "field", "low", "high"), RANGES, ids=lambda value: str(value))
def test_a_number_is_kept_at_its_edges_and_refused_by_name_beyond(
    kind: str, name: str, field: str, low: float, high: float
) -> None:
    for value in (low, high):
        assert getattr(KINDS[kind](**{name: value}), name) == value
    step = 1 if isinstance(low, int) else 0.002
    for value in (low - step, high + step, math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidRequest) as refusal:
            KINDS[kind](**{name: value})
        assert refusal.value.field == field


@pytest.mark.parametrize("name", ["prompt", "hotwords"])
def test_a_text_for_the_model_has_at_most_two_kibibytes(name: str) -> None:
    for text in ("", "x" * MAX_PROMPT_BYTES, "я" * (MAX_PROMPT_BYTES // 2)):
        assert getattr(TranscriptionRequest(**{name: text}), name) == text  # type: ignore[arg-type]
    for text in ("x" * (MAX_PROMPT_BYTES + 1), "я" * (MAX_PROMPT_BYTES // 2 + 1), "\ud800" * MAX_PROMPT_BYTES):
        with pytest.raises(InvalidRequest) as refusal:
            TranscriptionRequest(**{name: text})  # type: ignore[arg-type]
        assert refusal.value.field == name


def test_a_temperature_of_zero_keeps_warmer_ones_and_others_are_what_they_say() -> None:
    assert DecodingOptions().temperatures == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert DecodingOptions(temperature=0.3).temperatures == (0.3,)
    assert DecodingOptions(temperature=(0.0, 0.5)).temperatures == (0.0, 0.5)
    for ladder in ((), (0.5, 0.2), (0.2, 0.2), tuple(number / 10 for number in range(7)), (0.0, 1.1)):
        with pytest.raises(InvalidRequest) as refusal:
            DecodingOptions(temperature=ladder)
        assert refusal.value.field == "temperature"


def test_a_gate_can_be_turned_off() -> None:
    guard = GuardOptions(compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None)
    assert guard.enabled


@pytest.mark.parametrize(
    "clips",
    [
        ((1.0, 1.0),),
        ((2.0, 1.0),),
        ((-1.0, 1.0),),
        ((0.0, 2.0), (1.0, 3.0)),
        ((0.0, math.inf),),
        ((0.0, math.nan),),
        tuple((float(second), second + 0.5) for second in range(MAX_CLIPS + 1)),
    ],
)
def test_clips_ascend_and_do_not_overlap(clips: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        TranscriptionRequest(clips=clips)
    assert refusal.value.field == "clip_timestamps"
    assert TranscriptionRequest(clips=((0.0, 1.0), (1.0, 2.5))).clips


def test_languages_to_choose_among_are_kept_as_codes() -> None:
    assert TranscriptionRequest(languages=("English", "DE", "en")).languages == ("en", "de")
    for languages in (("auto",), ("klingon",), ("",)):
        with pytest.raises(InvalidRequest) as refusal:
            DetectionRequest(languages=languages)
        assert refusal.value.field == "languages"


@pytest.mark.parametrize("field", ["languages", "multilingual"])
def test_what_is_for_detection_contradicts_a_language(field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        TranscriptionRequest(language="en", **{field: ("de",)})  # type: ignore[arg-type]
    assert refusal.value.field == field


def test_words_and_cues_need_timestamps() -> None:
    assert not TranscriptionRequest(timestamps=False).wants_timestamps
    assert TranscriptionRequest(timestamps=False, word_timestamps=True).wants_timestamps
    assert TranscriptionRequest(timestamps=False, cues=CueOptions()).wants_timestamps
    assert not TranscriptionRequest(cues=CueOptions()).wants_words
    assert TranscriptionRequest(cues=CueOptions(highlight_words=True)).wants_words


def test_presets_are_beams() -> None:
    assert (Preset.FAST.beam_size, Preset.ACCURATE.beam_size) == (1, 5)


def test_by_default_the_language_is_detected_and_silence_is_skipped() -> None:
    default = TranscriptionRequest()
    assert default.language is None
    assert default.task is SpeechTask.TRANSCRIBE
    assert default.vad.enabled
    assert not default.word_timestamps


def test_nothing_is_foretold_before_the_first_batch() -> None:
    assert SpeechQueue(waiting_audio_seconds=10.0).eta_seconds is None
    assert SpeechQueue(waiting_audio_seconds=10.0, real_time_factor=4.0).eta_seconds == 2.5
