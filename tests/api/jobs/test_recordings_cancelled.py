"""A job that is cancelled while its recording is heard, over the engine with its real decoder and its owner thread."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from models.speech.decoder import AudioDecoder
from models.speech.guard import Decoded
from tests.api.jobs.at_work import at_work
from tests.api.jobs.conftest import Office
from tests.api.jobs.test_recordings import URL, kept, settled, submitted
from tests.api.test_speech_ended_early import NEIGHBOUR, ListeningRepository, recording
from tests.api.world import in_process, until
from tests.models.scripted_ears import Asked, ScriptedEars, counting, said

LONG = 90
EVERYTHING = {"vad_filter": False, "language": "en"}


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=2)
    yield decoder
    decoder.close()


@dataclass
class Stage:
    """An office whose jobs are heard by scripted ears, through the real engine."""

    office: Office
    ears: ScriptedEars
    pool: ModelPool
    decoder: AudioDecoder
    folder: Path

    @property
    def files(self) -> list[Path]:
        """What lies about of any recording."""
        return [*kept(self.folder), *self.office.world.uploads]

    @property
    def in_flight(self) -> int:
        """Requests that hold the model."""
        return sum(resident.in_flight for resident in self.pool.residents())

    def stop_after_one_batch(self) -> None:
        """The next batch is heard, and the one after it waits at the gate."""

        def answer(asked: Asked) -> Decoded:
            self.ears.gate.clear()
            return said(f" {asked.second}", asked.seconds)

        self.ears.answer = answer

    def go_on(self) -> None:
        """Everything is heard from now on."""
        self.ears.answer = lambda asked: said(f" {asked.second}", asked.seconds)
        self.ears.gate.set()

    async def source(self, name: str) -> dict[str, str]:
        """The long recording, as the input of a job names it."""
        _, content, _ = recording(counting(LONG))
        if name == "url":
            self.office.world.fetcher.pages[URL] = content
            return {"url": URL}
        upload = {"files": {"file": ("long.wav", content)}, "data": {"purpose": "transcribe"}}
        answer = await self.office.client.post("/file/upload", **upload)  # type: ignore[arg-type]
        return {"file_path": answer.json()["file_path"]}

    async def hear_the_neighbour(self) -> str:
        """What a caller who waits for another recording is told."""
        data = {name: str(value).lower() for name, value in EVERYTHING.items()}
        file = recording(counting(30, NEIGHBOUR))
        response = await self.office.client.post("/transcribe", files={"file": file}, data=data)
        text: str = response.json()["text"]
        return text

    async def progress(self, job_id: str) -> dict[str, Any]:
        """How far the job says it is, once it says anything of a batch."""
        while not ((job := await self.office.services.jobs.get(job_id)).progress or {}).get("current"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        shown: dict[str, Any] = (await self.office.get(f"/jobs/{job.id}")).json()["progress"]
        return shown


@pytest.fixture
async def stage(kept_office: Office, decoder: AudioDecoder, tmp_path: Path) -> AsyncIterator[Stage]:
    world, jobs = kept_office.world, kept_office.services
    ears = ScriptedEars()
    pool = ModelPool(ListeningRepository(decoder, ears), world.services.clock, world.events)
    transcribe = TranscribeAudio(pool, world.services.clock, world.events)
    heard_here = replace(world, services=replace(world.services, pool=pool, transcribe=transcribe))
    async with in_process(heard_here.app(jobs=jobs)) as client:
        yield Stage(replace(kept_office, client=client, world=heard_here), ears, pool, decoder, tmp_path)
    ears.gate.set()
    await pool.close()


@pytest.mark.parametrize("source", ["file_path", "url"])
async def test_a_cancelled_job_gets_no_further_batch_and_leaves_nothing_and_the_neighbour_hears_no_difference(
    stage: Stage, source: str
) -> None:
    alone = await stage.hear_the_neighbour()
    stage.ears.encoded.clear()
    stage.stop_after_one_batch()
    async with at_work(stage.office):
        job_id = await submitted(stage.office, **EVERYTHING, **await stage.source(source))
        assert 0 < (await stage.progress(job_id))["percent"] <= 10
        beside = asyncio.create_task(stage.hear_the_neighbour())
        await until(lambda: stage.in_flight == 2)
        assert (await stage.office.post(f"/jobs/{job_id}/cancel")).status_code == 202
        assert (await settled(stage.office, job_id))["status"] == "cancelled"
        await until(lambda: stage.in_flight == 1)
        stage.go_on()
        assert await beside == alone
    doomed = [seconds for seconds, _frames in stage.ears.encoded if any(second < NEIGHBOUR for second in seconds)]
    assert len(doomed) <= 2
    assert stage.decoder._jobs == set()
    await stage.office.services.files.sweep()
    assert stage.files == []
