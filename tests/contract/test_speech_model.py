"""What every SpeechModel promises: the engine with scripted ears, and the fake that stands for it."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from application.ports import SpeechModel
from domain.errors import RequestCancelled
from domain.listening import VadOptions
from domain.model import Model
from domain.transcription import (
    DetectionRequest,
    LanguageHeard,
    Progress,
    Segment,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.options import EngineOptions
from tests.fakes.models import speech_spec
from tests.fakes.speech_model import FakeSpeechModel, SpeechScript
from tests.models.scripted_ears import ScriptedEars
from tests.models.sound import wav

EVERYTHING = VadOptions(enabled=False)


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=1)
    yield decoder
    decoder.close()


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "input.bin"
    path.write_bytes(wav(20.0))
    return path


@pytest.fixture(params=["engine", "fake"])
def model(request: pytest.FixtureRequest, decoder: AudioDecoder) -> Iterator[SpeechModel]:
    info = Model(speech_spec("ear:base")).loaded(
        device="cpu",
        dtype="float32",
        quantization="int8",
        context_length=0,
        memory_bytes=1,
        load_time_ms=1,
        compute_type="int8_float32",
    )
    if request.param == "fake":
        yield FakeSpeechModel(info, SpeechScript())
        return
    engine = WhisperEngine(
        info,
        ScriptedEars(),
        Abilities("ear:base", frozenset({"en", "de"}), translates=True),
        decoder,
        InferenceThread("speech contract"),
        options=EngineOptions(rows=4, window_seconds=9.0, batch_wait_seconds=0.0),
    )
    yield engine
    engine.close()


async def collect(model: SpeechModel, audio: Path, **wishes: object) -> list[TranscriptionEvent]:
    request = TranscriptionRequest(**{"vad": EVERYTHING, **wishes})  # type: ignore[arg-type]
    async with aclosing(model.transcribe(audio, request)) as events:
        return [event async for event in events]


async def test_progress_comes_first_the_language_before_the_segments_and_the_transcript_last(
    model: SpeechModel, audio: Path
) -> None:
    found = await collect(model, audio)
    kinds = [type(event) for event in found]
    assert kinds[0] is Progress
    assert kinds.count(LanguageHeard) == kinds.count(Transcript) == 1
    assert kinds[-1] is Transcript
    assert kinds.index(LanguageHeard) < kinds.index(Segment)
    assert model.waiting == 0


async def test_the_segments_join_to_the_text_and_are_those_of_the_transcript(model: SpeechModel, audio: Path) -> None:
    found = await collect(model, audio)
    segments = [event for event in found if isinstance(event, Segment)]
    transcript = found[-1]
    assert isinstance(transcript, Transcript)
    assert transcript.segments == tuple(segments)
    assert "".join(segment.text for segment in segments).strip() == transcript.text != ""
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)


async def test_progress_never_falls_and_reaches_the_end(model: SpeechModel, audio: Path) -> None:
    found = await collect(model, audio)
    told = [event for event in found if isinstance(event, Progress)]
    assert [one.processed for one in told] == sorted(one.processed for one in told)
    assert (told[-1].processed, told[-1].estimated) == (told[-1].total, False)


async def test_a_named_language_is_taken_as_it_is(model: SpeechModel, audio: Path) -> None:
    found = await collect(model, audio, language="German")
    assert LanguageHeard("de", 1.0) in found
    transcript = found[-1]
    assert isinstance(transcript, Transcript)
    assert (transcript.language, transcript.language_probability) == ("de", 1.0)


async def test_many_at_once_get_the_text_that_each_gets_alone(model: SpeechModel, audio: Path) -> None:
    alone = (await collect(model, audio))[-1]
    together = [found[-1] for found in await asyncio.gather(*(collect(model, audio) for _ in range(5)))]
    assert isinstance(alone, Transcript)
    assert [one.text for one in together if isinstance(one, Transcript)] == [alone.text] * 5


async def test_a_language_is_detected_without_a_transcript(model: SpeechModel, audio: Path) -> None:
    heard = await model.detect_language(audio, DetectionRequest(vad=EVERYTHING))
    assert heard.candidates[0][0] == "en"
    assert heard.candidates[0][1] > 0.8
    assert (heard.windows, heard.duration > 0) == (1, True)


async def test_after_an_abort_everything_is_cancelled(model: SpeechModel, audio: Path) -> None:
    model.abort()
    with pytest.raises(RequestCancelled):
        await collect(model, audio)
    with pytest.raises(RequestCancelled):
        await model.detect_language(audio, DetectionRequest())


async def test_leaving_early_leaves_nothing_waiting(model: SpeechModel, audio: Path) -> None:
    events = model.transcribe(audio, TranscriptionRequest(vad=EVERYTHING))
    assert isinstance(await anext(events), Progress)
    await events.aclose()
    assert model.waiting == 0
    assert model.queue.active_requests == 0
    assert isinstance((await collect(model, audio))[-1], Transcript)
