"""Jobs for `whisperx` where WHISPERX_URL is set: the server is spoken to in either shape, its failures have codes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from application.joined_repository import JoinedRepository
from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from domain.model import Task
from infrastructure.providers.entry import WHISPERX, ProvidedModel, ProviderEntry, SpeechShape
from infrastructure.providers.repository import ProvidedModels
from tests.api.jobs.at_work import at_work
from tests.api.jobs.conftest import IN_MEMORY, Office
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.providers.stub import JSON, KEY, Reply, failing, stub_provider, whole

pytestmark = IN_MEMORY
SEGMENTS = [{"id": 0, "start": 0.0, "end": 2.0, "text": " Hello world."}]
HEARD = whole({"text": "Hello world.", "language": "en", "duration": 2.5, "segments": SEGMENTS})
SHAPES = pytest.mark.parametrize("shape", list(SpeechShape))


@asynccontextmanager
async def with_ears(office: Office, entry: ProviderEntry) -> AsyncIterator[Office]:
    """The same office, `whisperx` being a model of that server."""
    world = office.world
    model = ProvidedModel(WHISPERX, "large-v3", entry, Task.SPEECH, capabilities=("transcription",))
    external = ProvidedModels([model], LoopClock())
    pool = ModelPool(JoinedRepository(world.repository, external, {}), LoopClock(), RecordedEvents())
    transcribe = TranscribeAudio(pool, LoopClock(), RecordedEvents())
    services = replace(world.services, pool=pool, transcribe=transcribe, providers=external)
    try:
        yield replace(office, world=replace(world, pool=pool, services=services))
    finally:
        await pool.close()
        await external.close()


async def after_work(office: Office, entry: ProviderEntry, **given: Any) -> dict[str, Any]:
    """A recording's job as it is when its first attempt has ended."""
    office.world.fetcher.pages["https://sound.example/a.wav"] = b"RIFF sound"
    async with with_ears(office, entry) as at:
        fields = {"task_type": "transcribe", "model_profile": WHISPERX}
        job = await office.submit(**fields, input={"url": "https://sound.example/a.wav", **given})
        async with at_work(at, whisperx=WHISPERX):
            history = office.services.history
            while not await history.attempts(job["id"]):  # noqa: ASYNC110 (an attempt that ends tells nobody)
                await asyncio.sleep(0.005)
    shown = (await office.get(f"/jobs/{job['id']}")).json()
    assert KEY not in str(shown)
    return shown  # type: ignore[no-any-return]


def entry_of(port: int, stub: Any, shape: SpeechShape) -> ProviderEntry:
    base = f"http://127.0.0.1:{port}" + ("/v1" if shape is SpeechShape.OPENAI else "")
    entry: ProviderEntry = stub.entry(name=WHISPERX, base_url=base, kind=WHISPERX, speech_shape=shape)
    return entry


@SHAPES
async def test_the_result_says_who_heard_it(office: Office, shape: SpeechShape) -> None:
    async with stub_provider(HEARD) as stub:
        done = await after_work(office, entry_of(stub.port, stub, shape), language="en", response_format="srt")
        assert len(stub.requests) == 1
    assert done["status"] == "completed", done
    result = done["result"]
    assert (result["schema_version"], result["provider"]) == ("ai.transcription_result.v1", "whisperx")
    assert (result["text"], result["language"], result["model"]) == ("Hello world.", "en", "whisperx")
    assert [(one["start"], one["end"], one["text"]) for one in result["segments"]] == [(0.0, 2.0, "Hello world.")]
    assert result["rendered"]["content"].startswith("1\n00:00:00,000 --> ")
    assert result["usage"] == {"type": "duration", "seconds": 3}


@SHAPES
@pytest.mark.parametrize(
    ("reply", "code", "status"),
    [
        (failing(500), "provider_error", "pending"),
        (failing(503), "provider_unavailable", "pending"),
        (Reply(status=0), "provider_unavailable", "pending"),
        (Reply(headers=JSON, pieces=(b"{]",)), "bad_response", "pending"),
        (whole({"segments": 3}), "bad_response", "pending"),
        (failing(401, KEY), "auth_error", "failed"),
        (failing(429), "rate_limited", "pending"),
    ],
)
async def test_its_failures_have_codes(
    office: Office, shape: SpeechShape, reply: Reply, code: str, status: str
) -> None:
    async with stub_provider(reply) as stub:
        done = await after_work(office, entry_of(stub.port, stub, shape))
    assert (done["status"], done["error_code"]) == (status, code)


async def test_what_it_cannot_be_told_is_bad_input(office: Office) -> None:
    async with stub_provider(HEARD) as stub:
        done = await after_work(office, entry_of(stub.port, stub, SpeechShape.ASR), hotwords="Ingle")
        assert stub.requests == []
    assert (done["status"], done["error_code"]) == ("failed", "bad_input")
    assert "hotwords" in done["error_message"]
