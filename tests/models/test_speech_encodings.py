"""What a language costs the real whisper:base: encoding is most of the work of a short clip."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.spoken import CLIPS
from domain.transcription import DetectionRequest, TranscriptionRequest
from models.speech.engine import WhisperEngine
from models.speech.whisper import Ears, Sound
from tests.models import test_speech_whisper
from tests.models.test_speech_whisper import transcribe

pytestmark = pytest.mark.weights("whisper:base")

installed = test_speech_whisper.installed
decoder = test_speech_whisper.decoder
engine = test_speech_whisper.engine


class CountingEars:
    """The same ears; `encoded` are the frames of each sound that they were given."""

    def __init__(self, ears: Ears) -> None:
        self._ears = ears
        self.encoded: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ears, name)

    def encode(self, sounds: Sequence[Sound], frames: int) -> Any:
        """Count them."""
        self.encoded += [frames] * len(sounds)
        return self._ears.encode(sounds, frames)


@pytest.fixture
def counted(engine: WhisperEngine) -> Iterator[CountingEars]:
    """What the engine encodes while the test runs."""
    ears = engine._listener.ears
    engine._listener.ears = counting = CountingEars(ears)
    yield counting
    engine._listener.ears = ears


@pytest.mark.parametrize("name", [*CLIPS, "jfk.mp3"])
async def test_the_language_is_told_by_one_encoding(
    engine: WhisperEngine, counted: CountingEars, audio_dir: Path, name: str
) -> None:
    heard = await engine.detect_language(audio_dir / name, DetectionRequest())
    assert heard.candidates[0][0] == "en"
    assert heard.candidates[0][1] > 0.8
    assert (len(heard.candidates), heard.windows) == (5, 1)
    assert len(counted.encoded) == 1


async def test_a_clear_language_costs_no_encoding_beside_those_of_its_windows(
    engine: WhisperEngine, counted: CountingEars, audio_dir: Path
) -> None:
    transcript = await transcribe(engine, audio_dir / "jfk.wav", TranscriptionRequest(timestamps=False))
    assert (transcript.language, len(counted.encoded)) == ("en", len(transcript.segments))
