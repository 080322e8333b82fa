import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from application.events import Event, TranscriptionFinished, WorkCancelled
from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio, TranscriptionStarted
from domain.errors import (
    AudioRefused,
    DeadlineExceeded,
    GenerationFailed,
    ModelNotFound,
    RequestCancelled,
    UnsupportedCapability,
)
from domain.transcription import DetectionRequest, Segment, Transcript, TranscriptionRequest
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import FakeModelRepository, SpeechScript
from tests.fakes.virtual_time import settle, virtual_time

REQUEST = TranscriptionRequest(language="en", request_id="r-1")
CANCELLED = WorkCancelled("ear:base", "r-1")


@pytest.fixture
def transcribe(pool: ModelPool, events: RecordedEvents) -> TranscribeAudio:
    return TranscribeAudio(pool, LoopClock(), events)


@pytest.fixture
def script(repository: FakeModelRepository) -> SpeechScript:
    return repository.script("ear:base").speech


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    file = tmp_path / "input.bin"
    file.write_bytes(b"sound")
    return file


def work_events(events: RecordedEvents) -> list[Event]:
    return [event for event in events if isinstance(event, TranscriptionFinished | WorkCancelled)]


def in_flight(pool: ModelPool) -> int:
    return sum(resident.in_flight for resident in pool.residents())


# -- the answer -----------------------------------------------------------------------------------------


@virtual_time
async def test_a_stream_begins_with_the_model_and_ends_with_the_transcript(
    transcribe: TranscribeAudio, events: RecordedEvents, audio: Path
) -> None:
    async with aclosing(transcribe.stream("ear", audio, REQUEST)) as stream:
        started, *heard = [event async for event in stream]
    assert isinstance(started, TranscriptionStarted)
    assert (started.model.id, started.queue_position, started.load_seconds) == ("ear:base", 0, 0.0)
    assert [event.text for event in heard if isinstance(event, Segment)] == [" Hello world.", " How are you?"]
    assert [type(event) for event in heard].count(Transcript) == 1
    transcript = heard[-1]
    assert isinstance(transcript, Transcript)
    assert transcript.text == "Hello world. How are you?"
    assert work_events(events) == [
        TranscriptionFinished("ear:base", "r-1", transcript.duration, transcript.processing_time)
    ]


@virtual_time
async def test_the_whole_answer_is_the_end_of_the_stream(transcribe: TranscribeAudio, audio: Path) -> None:
    answer = await transcribe.complete("ear", audio, REQUEST)
    assert answer.started.model.id == "ear:base"
    assert answer.transcript.text == "Hello world. How are you?"


@virtual_time
async def test_the_file_and_the_request_reach_the_model_as_they_are(
    transcribe: TranscribeAudio, repository: FakeModelRepository, audio: Path
) -> None:
    await transcribe.complete("ear", audio, REQUEST)
    (call,) = repository.speech("ear:base").heard
    assert (call.audio, call.content, call.request) == (audio, b"sound", REQUEST)


@virtual_time
async def test_the_wait_for_the_load_is_told(
    transcribe: TranscribeAudio, repository: FakeModelRepository, audio: Path
) -> None:
    gate = repository.script("ear:base").load.shut()
    answering = asyncio.create_task(transcribe.complete("ear", audio, REQUEST))
    await gate.arrived()
    await asyncio.sleep(7.0)
    gate.open()
    assert (await answering).started.load_seconds == pytest.approx(7.0)


@virtual_time
async def test_the_position_in_the_queue_is_that_on_arrival(
    transcribe: TranscribeAudio, script: SpeechScript, audio: Path
) -> None:
    script.before_first.shut()
    first = asyncio.create_task(transcribe.complete("ear", audio, REQUEST))
    await script.before_first.arrived()
    async with aclosing(transcribe.stream("ear", audio, REQUEST)) as stream:
        started = await anext(stream)
    assert isinstance(started, TranscriptionStarted)
    assert started.queue_position == 1
    script.before_first.open()
    await first


@virtual_time
async def test_keep_alive_of_a_request_reaches_the_pool(
    transcribe: TranscribeAudio, repository: FakeModelRepository, audio: Path
) -> None:
    await transcribe.complete("ear", audio, REQUEST, keep_alive=0.0)
    await settle()
    assert repository.unloads == ["ear:base"]


# -- the caller leaves ----------------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("received", [1, 2, 3])
async def test_closing_the_stream_ends_the_work_and_the_lease(
    transcribe: TranscribeAudio,
    pool: ModelPool,
    repository: FakeModelRepository,
    events: RecordedEvents,
    audio: Path,
    received: int,
) -> None:
    stream = transcribe.stream("ear", audio, REQUEST)
    for _ in range(received):
        await anext(stream)
    await stream.aclose()
    assert (in_flight(pool), repository.speech("ear:base").in_flight) == (0, 0)
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_closing_the_stream_after_the_transcript_is_no_cancellation(
    transcribe: TranscribeAudio, events: RecordedEvents, audio: Path
) -> None:
    stream = transcribe.stream("ear", audio, REQUEST)
    while not isinstance(await anext(stream), Transcript):
        pass
    await stream.aclose()
    assert [type(event) for event in work_events(events)] == [TranscriptionFinished]


@virtual_time
@pytest.mark.parametrize("gate_name", ["before_first", "between"])
async def test_cancelling_whoever_awaits_the_answer_ends_the_work(
    transcribe: TranscribeAudio,
    script: SpeechScript,
    pool: ModelPool,
    repository: FakeModelRepository,
    events: RecordedEvents,
    audio: Path,
    gate_name: str,
) -> None:
    gate = getattr(script, gate_name).shut()
    answering = asyncio.create_task(transcribe.complete("ear", audio, REQUEST))
    await gate.arrived()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    model = repository.speech("ear:base")
    assert (in_flight(pool), model.opened, model.closed) == (0, 1, 1)
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_work_that_somebody_else_cancels_is_told_as_cancelled(
    transcribe: TranscribeAudio, script: SpeechScript, pool: ModelPool, events: RecordedEvents, audio: Path
) -> None:
    script.between.shut()
    answering = asyncio.create_task(transcribe.complete("ear", audio, REQUEST))
    await script.between.arrived()
    await pool.unload("ear", force=True)
    with pytest.raises(RequestCancelled):
        await answering
    assert work_events(events) == [CANCELLED]


# -- what goes wrong ------------------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize(("error", "after"), [(AudioRefused(), 0), (GenerationFailed("NaN"), 1)])
async def test_an_error_of_the_model_reaches_the_caller_and_ends_the_lease(
    transcribe: TranscribeAudio,
    script: SpeechScript,
    pool: ModelPool,
    events: RecordedEvents,
    audio: Path,
    error: Exception,
    after: int,
) -> None:
    script.error, script.error_after = error, after
    with pytest.raises(type(error)):
        await transcribe.complete("ear", audio, REQUEST)
    assert in_flight(pool) == 0
    assert work_events(events) == []


@virtual_time
async def test_a_deadline_is_an_error_whenever_it_passes(
    transcribe: TranscribeAudio, script: SpeechScript, audio: Path
) -> None:
    for gate in (script.before_first, script.between):
        gate.shut()
        with pytest.raises(DeadlineExceeded):
            await transcribe.complete("ear", audio, replace(REQUEST, timeout_seconds=3.0))
        gate.open()


@virtual_time
async def test_a_model_that_cannot_hear_is_refused_before_anything_is_loaded(
    transcribe: TranscribeAudio, repository: FakeModelRepository, audio: Path
) -> None:
    with pytest.raises(UnsupportedCapability):
        await transcribe.complete("a", audio, REQUEST)
    with pytest.raises(ModelNotFound):
        await transcribe.complete("nobody", audio, REQUEST)
    assert repository.loads == []


# -- language -----------------------------------------------------------------------------------------


@virtual_time
async def test_a_language_is_detected_under_a_lease(
    transcribe: TranscribeAudio, pool: ModelPool, events: RecordedEvents, audio: Path
) -> None:
    detection = await transcribe.detect_language("ear", audio, DetectionRequest(request_id="r-2"))
    assert (detection.model.id, detection.heard.candidates) == ("ear:base", (("en", 0.99),))
    assert in_flight(pool) == 0
    assert work_events(events) == []


@virtual_time
async def test_a_detection_that_is_cancelled_says_so_and_ends_its_lease(
    transcribe: TranscribeAudio, pool: ModelPool, events: RecordedEvents, script: SpeechScript, audio: Path
) -> None:
    script.before_first.shut()
    work = asyncio.ensure_future(transcribe.detect_language("ear", audio, DetectionRequest(request_id="r-2")))
    await script.before_first.arrived()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert in_flight(pool) == 0
    assert work_events(events) == [WorkCancelled("ear:base", "r-2")]
