import math

import pytest

from domain.errors import InvalidRequest
from domain.transcription import MAX_PROMPT_BYTES, SpeechTask, TranscriptionRequest


def request(**values: object) -> TranscriptionRequest:
    return TranscriptionRequest(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beam_size", [1, 10]),
        ("temperature", [0.0, 1.0]),
        ("prompt", ["", "x" * MAX_PROMPT_BYTES, "я" * (MAX_PROMPT_BYTES // 2)]),
        ("hotwords", ["", "x" * MAX_PROMPT_BYTES]),
        ("timeout_seconds", [None, 0.001, 86_400.0]),
        ("language", [None, "en"]),
    ],
)
def test_values_in_range_are_kept(name: str, values: list[object]) -> None:
    for value in values:
        assert getattr(request(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beam_size", [0, -1, 11]),
        ("temperature", [-0.1, 1.1, math.nan, math.inf, -math.inf]),
        ("prompt", ["x" * (MAX_PROMPT_BYTES + 1), "я" * (MAX_PROMPT_BYTES // 2 + 1), "\ud800" * MAX_PROMPT_BYTES]),
        ("hotwords", ["x" * (MAX_PROMPT_BYTES + 1)]),
        ("timeout_seconds", [0.0, -1.0, 86_401.0, math.nan, math.inf]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            request(**{name: value})
        assert caught.value.field == name.removesuffix("_seconds")


def test_by_default_the_language_is_detected_and_silence_is_skipped() -> None:
    default = TranscriptionRequest()
    assert default.language is None
    assert default.task is SpeechTask.TRANSCRIBE
    assert default.vad_filter
    assert not default.word_timestamps
