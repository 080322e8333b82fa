"""Recordings whose requests end early, over the engine with its real decoder and its owner thread, over real sockets.

Ears without weights hear which second a window begins with, so what was heard of which request is known.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import httpx2
import numpy as np
import orjson
import pytest

from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from domain.model import LoadOptions, Model, ModelSpec
from domain.repositories import LoadedModel, OnLoadProgress
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.guard import Decoded
from models.speech.options import EngineOptions
from tests.api.test_upload_statuses import EngineRepository
from tests.api.world import SPEECH, Served, World, serving, until
from tests.fakes.models import speech_spec
from tests.models.scripted_ears import RATE, Asked, ScriptedEars, counting, said

ROWS = 2
WINDOW = 9.0
NEIGHBOUR = 1001
LONG = 180


class ListeningRepository(EngineRepository):
    """One engine with small batches, whose ears the test holds."""

    def __init__(self, decoder: AudioDecoder, ears: ScriptedEars) -> None:
        super().__init__(decoder, speech_spec(SPEECH))
        self._ears = ears

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """The engine."""
        del options, on_progress
        info = Model(spec).loaded(
            device="cpu", dtype="float32", quantization="int8", context_length=0, memory_bytes=1, load_time_ms=1
        )
        abilities = Abilities(spec.id, frozenset(("en",)), translates=False)
        options_ = EngineOptions(rows=ROWS, window_seconds=WINDOW, batch_wait_seconds=0.0)
        return WhisperEngine(info, self._ears, abilities, self._decoder, InferenceThread("speech"), options=options_)


@dataclass
class Stage:
    """The server, its ears and what may be left behind."""

    served: Served
    ears: ScriptedEars
    pool: ModelPool
    decoder: AudioDecoder
    world: World

    def send(self, samples: np.ndarray, request_id: str, **wishes: str) -> "asyncio.Task[httpx2.Response]":
        """Have it written down, every second of it."""
        data = {"vad_filter": "false", "language": "en", **wishes}
        sending = self.served.client.post(
            "/transcribe", files={"file": recording(samples)}, data=data, headers={"x-request-id": request_id}
        )
        return asyncio.create_task(sending)

    async def at_gate(self) -> None:
        """Until a batch is about to be heard."""
        await asyncio.to_thread(self.ears.at_gate.acquire)

    @property
    def doomed_batches(self) -> int:
        """How many batches held a window of the long recording."""
        return sum(any(second < NEIGHBOUR for second in seconds) for seconds, _frames in self.ears.encoded)


def recording(samples: np.ndarray) -> tuple[str, bytes, str]:
    body = samples.astype("<i2").tobytes()
    head = (
        b"RIFF" + (36 + len(body)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x01\0\x01\0"
        + RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little") + b"\x02\0\x10\0data"
        + len(body).to_bytes(4, "little")
    )  # fmt: skip
    return ("a.wav", head + body, "audio/wav")


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=2)
    yield decoder
    decoder.close()


@pytest.fixture
async def stage(world: World, decoder: AudioDecoder) -> AsyncGenerator[Stage, None]:
    ears = ScriptedEars()
    pool = ModelPool(ListeningRepository(decoder, ears), world.services.clock, world.events)
    transcribe = TranscribeAudio(pool, world.services.clock, world.events)
    async with serving(world.app(pool=pool, transcribe=transcribe)) as served:
        yield Stage(served, ears, pool, decoder, world)
    await pool.close()


async def hang_up(stage: Stage, doomed: "asyncio.Task[httpx2.Response]") -> None:
    del stage
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)


async def cancel(stage: Stage, doomed: "asyncio.Task[httpx2.Response]") -> None:
    assert (await stage.served.client.post("/queue/cancel/doomed")).status_code == 202
    response = await doomed
    # A stream that has begun says so in its last event.
    assert response.status_code == 499 or '"code":"request_cancelled"' in response.text.replace(" ", "")


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("end", [hang_up, cancel])
async def test_who_leaves_gets_no_further_batch_and_leaves_nothing_and_the_neighbour_hears_no_difference(
    stage: Stage, end: Callable[[Stage, "asyncio.Task[httpx2.Response]"], Awaitable[None]], stream: str
) -> None:
    neighbour = counting(30, NEIGHBOUR)
    alone = (await stage.send(neighbour, "alone")).json()["text"]
    stage.ears.encoded.clear()
    while stage.ears.at_gate.acquire(blocking=False):
        pass
    stage.ears.gate.clear()
    doomed = stage.send(counting(LONG), "doomed", stream=stream)
    await stage.at_gate()
    beside = stage.send(neighbour, "beside")
    await until(lambda: sum(resident.in_flight for resident in stage.pool.residents()) == 2)
    await end(stage, doomed)
    await until(lambda: sum(resident.in_flight for resident in stage.pool.residents()) == 1)
    stage.ears.gate.set()
    assert (await beside).json()["text"] == alone
    assert stage.doomed_batches == 1
    assert stage.world.uploads == []
    assert stage.decoder._jobs == set()


async def test_after_a_cancel_the_queue_is_empty_and_the_next_is_heard(stage: Stage) -> None:
    stage.ears.gate.clear()
    doomed = stage.send(counting(LONG), "doomed")
    await stage.at_gate()
    await cancel(stage, doomed)
    speech = (await stage.served.client.get("/queue/status")).json()["speech"]
    assert (speech["active_requests"], speech["waiting_windows"], speech["waiting_audio_seconds"]) == (0, 0, 0)
    stage.ears.gate.set()
    assert (await stage.send(counting(3), "next")).json()["text"] == "1"
    assert stage.doomed_batches == 2


@pytest.mark.parametrize("force", [False, True])
async def test_a_model_that_streams_stays_until_it_has_ended_unless_it_is_forced_out(stage: Stage, force: bool) -> None:
    stage.ears.gate.clear()
    streaming = stage.send(counting(60), "streaming", stream="true")
    await stage.at_gate()
    refusal = await stage.served.client.post("/unload-model", json={"model": SPEECH})
    assert (refusal.status_code, refusal.json()["code"]) == (409, "model_busy")
    assert not stage.ears.is_closed
    unloading: asyncio.Task[httpx2.Response] | None = None
    if force:
        call = stage.served.client.post("/unload-model", json={"model": SPEECH, "force": True})
        unloading = asyncio.create_task(call)
        told = (await streaming).text
        stage.ears.gate.set()
    else:
        stage.ears.gate.set()
        told = (await streaming).text
    gone = await (unloading or stage.served.client.post("/unload-model", json={"model": SPEECH}))
    last = told.strip().rpartition("data: ")[2]
    assert ('"type":"error"' in last, '"type":"done"' in last) == (force, not force)
    assert '"code":"request_cancelled"' in last or not force
    assert (gone.json()["status"], stage.ears.is_closed) == ("unloaded", True)
    assert stage.world.uploads == []


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_deadline_is_504_or_the_last_event_and_leaves_nothing(stage: Stage, stream: str) -> None:
    assert (await stage.send(counting(3), "first")).json()["text"] == "1"
    stage.ears.gate.clear()
    response = await stage.send(counting(LONG), "doomed", stream=stream, timeout="0.5")
    if stream == "true":
        assert response.status_code == 200
        last = orjson.loads(response.text.strip().rpartition("data: ")[2])
        assert last["type"] == "error"
    else:
        assert response.status_code == 504
        last = response.json()
    assert (last["status"], last["code"]) == (504, "deadline_exceeded")
    await until(lambda: sum(resident.in_flight for resident in stage.pool.residents()) == 0)
    assert stage.world.uploads == []
    assert stage.decoder._jobs == set()
    stage.ears.gate.set()
    assert (await stage.send(counting(3), "next")).json()["text"] == "1"


@pytest.mark.parametrize("route", ["/transcribe", "/v1/audio/transcriptions"])
async def test_a_window_that_is_heard_again_keeps_its_place_in_streams(stage: Stage, route: str) -> None:
    def answer(asked: Asked) -> Decoded:
        doubtful = asked.second == 9 and asked.key.frames < 3000
        return said(f" {asked.second}", asked.seconds, avg_logprob=-1.5 if doubtful else -0.2)

    stage.ears.answer = answer
    files, data = {"file": recording(counting(30))}, {"vad_filter": "false", "language": "en", "model": SPEECH}
    response = await stage.served.client.post(route, files=files, data=data | {"stream": "true"})
    frames = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    events = [orjson.loads(frame) for frame in frames]
    assert [seconds for seconds, frames in stage.ears.encoded if frames == 3000] == [[9]]
    if route == "/transcribe":
        texts = [event["segment"]["text"] for event in events if event["type"] == "segment"]
        whole = events[-1]["body"]["text"]
    else:
        texts = [event["delta"] for event in events if event["type"] == "transcript.text.delta"]
        whole = events[-1]["text"]
    assert "".join(texts).strip() == whole
    assert [int(text) for text in texts] == sorted(int(text) for text in texts)
    assert {1, 5, 9, 13} <= {int(text) for text in texts}
