import pytest

from domain.errors import InvalidRequest
from domain.languages import LANGUAGES, language_code
from domain.transcription import TranscriptionRequest


@pytest.mark.parametrize("text", ["en", "EN", " en ", "English", "english"])
def test_a_language_is_named_by_code_or_in_english(text: str) -> None:
    assert language_code(text) == "en"
    assert TranscriptionRequest(language=text).language == "en"


@pytest.mark.parametrize("text", [None, "", " ", "auto", "Auto"])
def test_no_language_means_that_it_is_detected(text: str | None) -> None:
    assert TranscriptionRequest(language=text).language is None


@pytest.mark.parametrize("text", ["xx", "Klingon", "en-US", "e" * 1000, "<|en|>"])
def test_an_unknown_language_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        TranscriptionRequest(language=text)
    assert refusal.value.field == "language"
    assert len(str(refusal.value)) < 250


def test_no_two_languages_share_a_name() -> None:
    assert len({name.lower() for name in LANGUAGES.values()}) == len(LANGUAGES) == 100
    assert all(language_code(name) == code for code, name in LANGUAGES.items())
