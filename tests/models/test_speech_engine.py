"""The engine around a scripted recogniser: turns, cancellation, deadlines. No weights are needed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing
from pathlib import Path

import pytest

from domain.errors import (
    AudioRefused,
    DeadlineExceeded,
    EmptyAudio,
    GenerationFailed,
    Overloaded,
    RequestCancelled,
    UnsupportedCapability,
)
from domain.model import Model, ModelSpec, Task, WeightFormat
from domain.transcription import (
    Caveat,
    Progress,
    Segment,
    SpeechTask,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder, Recording
from models.speech.engine import WhisperEngine
from models.speech.recognizer import Recognizer
from tests.models.sound import wav

SPEC = ModelSpec("ear:base", "Ear", Task.SPEECH, WeightFormat.CTRANSLATE2)


def said(number: int, text: str) -> Segment:
    return Segment(number, float(number), number + 1.0, f" {text}", -0.2, 0.0, 1.0, 0.0)


class ScriptedRecognizer(Recognizer):
    """Hears the prompt of the request, a word a step; `log` keeps each step. A step waits while `gate` is shut."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Semaphore(0)
        self.closed = False

    def listen(
        self, recording: Recording, request: TranscriptionRequest, language: str | None
    ) -> Generator[TranscriptionEvent, None, None]:
        segments = []
        try:
            for number, word in enumerate(request.prompt.split()):
                self.log.append(word)
                self.at_gate.release()
                self.gate.wait()
                if word == "crash":
                    raise RuntimeError("no such tensor")
                segments.append(said(number, word))
                yield segments[-1]
            text = "".join(segment.text for segment in segments).strip()
            yield Transcript(
                text, language, 1.0, recording.seconds, 0.0, tuple(segments), request.task, 0.5,
                warnings=(Caveat("prompt_truncated", ""),),
            )  # fmt: skip
        except GeneratorExit:
            self.log.append("closed")
            raise

    def close(self) -> None:
        self.closed = True


class Stage:
    """An engine, what it runs on, and an upload for it."""

    def __init__(self, folder: Path, *, max_waiting: int = 512, caveats: tuple[Caveat, ...] = ()) -> None:
        self.recognizer = ScriptedRecognizer()
        self.decoder = AudioDecoder(processes=1)
        self.audio = folder / "input.bin"
        self.audio.write_bytes(wav(3.0))
        self.engine = WhisperEngine(
            Model(SPEC).loaded(
                device="cpu", dtype="float32", quantization="int8", context_length=0, memory_bytes=1, load_time_ms=1
            ),
            self.recognizer,
            Abilities("ear:base", frozenset({"en", "de"}), translates=False),
            self.decoder,
            InferenceThread("speech test"),
            compute_type="int8_float32",
            caveats=caveats,
            max_waiting=max_waiting,
        )

    def transcribe(self, prompt: str, timeout: float | None = None) -> AsyncGenerator[TranscriptionEvent, None]:
        return self.engine.transcribe(self.audio, TranscriptionRequest(prompt=prompt, timeout_seconds=timeout))

    async def transcript(self, prompt: str) -> Transcript:
        async with aclosing(self.transcribe(prompt)) as events:
            found = [event async for event in events]
        assert isinstance(found[-1], Transcript)
        return found[-1]

    async def in_a_step(self) -> None:
        """Until the thread stands before the shut gate."""
        await asyncio.to_thread(self.recognizer.at_gate.acquire)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.recognizer.gate.set()
    await asyncio.to_thread(stage.engine.close)
    assert stage.recognizer.closed
    assert stage.engine.waiting == 0
    stage.decoder.close()


async def test_segments_come_as_they_are_heard_and_the_transcript_last(stage: Stage) -> None:
    async with aclosing(stage.transcribe("one two")) as events:
        found = [event async for event in events]
    assert found[0] == Progress(0.0, 3.0)
    assert [event.text for event in found[1:-1] if isinstance(event, Segment)] == [" one", " two"]
    last = found[-1]
    assert isinstance(last, Transcript)
    assert (last.text, last.device, last.compute_type, last.duration) == ("one two", "cpu", "int8_float32", 3.0)
    assert last.queue_time >= 0


async def test_an_answer_carries_the_caveats_of_the_model_the_recording_and_the_request(tmp_path: Path) -> None:
    stage = Stage(tmp_path, caveats=(Caveat("compute_type_changed", ""),))
    stage.audio.write_bytes(wav(3.0)[:-20_000])
    transcript = await stage.transcript("one")
    assert [caveat.code for caveat in transcript.warnings] == [
        "compute_type_changed", "audio_truncated", "prompt_truncated",
    ]  # fmt: skip
    await asyncio.to_thread(stage.engine.close)
    stage.decoder.close()


async def test_two_requests_take_turns_and_get_their_own_text(stage: Stage) -> None:
    stage.recognizer.gate.clear()
    first = asyncio.ensure_future(stage.transcript("a1 a2 a3 a4"))
    await stage.in_a_step()
    second = asyncio.ensure_future(stage.transcript("b1 b2"))
    while len(stage.engine._thread._calls) < 1:  # noqa: ASYNC110 -- the second request is decoded by then
        await asyncio.sleep(0)
    stage.recognizer.gate.set()
    assert (await first).text == "a1 a2 a3 a4"
    assert (await second).text == "b1 b2"
    assert stage.recognizer.log.index("b2") < stage.recognizer.log.index("a4")


async def test_closing_the_generator_ends_the_work_after_the_step_under_way(stage: Stage) -> None:
    events = stage.transcribe("one two three")
    async for event in events:
        if isinstance(event, Segment):
            break
    await events.aclose()
    assert (await stage.transcript("next")).text == "next"
    assert stage.recognizer.log == ["one", "closed", "next"]


async def test_a_caller_that_is_cancelled_in_a_step_frees_the_thread_after_it(stage: Stage) -> None:
    stage.recognizer.gate.clear()
    work = asyncio.ensure_future(stage.transcript("one two"))
    await stage.in_a_step()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    stage.recognizer.gate.set()
    assert (await stage.transcript("next")).text == "next"
    assert stage.recognizer.log == ["one", "closed", "next"]


async def test_abort_ends_open_generators_and_every_later_one(stage: Stage) -> None:
    stage.recognizer.gate.clear()
    works = [asyncio.ensure_future(stage.transcript(prompt)) for prompt in ("one two", "three")]
    await stage.in_a_step()
    stage.engine.abort()
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RequestCancelled, RequestCancelled]
    with pytest.raises(RequestCancelled):
        await stage.transcript("later")
    stage.recognizer.gate.set()


async def test_a_deadline_ends_the_work_even_in_the_middle_of_a_step(stage: Stage) -> None:
    stage.recognizer.gate.clear()
    with pytest.raises(DeadlineExceeded):
        async for _ in stage.transcribe("one two", timeout=0.2):
            pass
    stage.recognizer.gate.set()
    assert (await stage.transcript("next")).text == "next"


async def test_a_failure_of_the_model_fails_its_own_request_only(stage: Stage) -> None:
    failing = asyncio.ensure_future(stage.transcript("one crash"))
    other = asyncio.ensure_future(stage.transcript("two three"))
    with pytest.raises(GenerationFailed, match="no such tensor"):
        await failing
    assert (await other).text == "two three"


@pytest.mark.parametrize(("data", "kind"), [(b"", EmptyAudio), (b"text", AudioRefused)])
async def test_bad_audio_fails_before_the_first_event(stage: Stage, data: bytes, kind: type[Exception]) -> None:
    stage.audio.write_bytes(data)
    with pytest.raises(kind):
        await anext(stage.transcribe("one"))
    assert stage.recognizer.log == []


async def test_what_the_model_cannot_do_fails_before_the_audio_is_read(stage: Stage) -> None:
    stage.audio.write_bytes(b"text")
    for request in (TranscriptionRequest(task=SpeechTask.TRANSLATE), TranscriptionRequest(language="fr")):
        with pytest.raises(UnsupportedCapability):
            await anext(stage.engine.transcribe(stage.audio, request))


async def test_more_than_may_wait_are_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, max_waiting=1)
    stage.recognizer.gate.clear()
    first = asyncio.ensure_future(stage.transcript("one"))
    await stage.in_a_step()
    assert stage.engine.waiting == 0
    second = asyncio.ensure_future(stage.transcript("two"))
    while stage.engine.waiting == 0:  # noqa: ASYNC110 -- it waits as soon as it has run
        await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await stage.transcript("three")
    stage.recognizer.gate.set()
    assert [(await work).text for work in (first, second)] == ["one", "two"]
    await asyncio.to_thread(stage.engine.close)
    stage.decoder.close()
