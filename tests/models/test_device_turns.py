"""Speech and text take turns on one device, with models that are real but for their size."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from application.device_arbiter import DeviceArbiter, Sharing
from application.events import ModelLoaded, ModelResumed, ModelSuspended, SwapFailed
from application.model_pool import ModelPool
from domain.errors import ModelLoadFailed
from domain.generation import GenerationRequest
from domain.model import LoadOptions, Task
from domain.prompt import RawText
from domain.transcription import Transcript, TranscriptionRequest
from infrastructure.clock import SystemClock
from models.budget import BudgetPolicy
from models.catalog import Catalog
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from models.store import ModelStore
from tests.fakes.events import RecordedEvents
from tests.models.talking import ask
from tests.models.tiny import byte_tokenizer, save_tiny

HOLD = 0.1


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[OptimizedModelRepository]:
    save_tiny(tmp_path / "tiny", talks=True)
    policy = LoadPolicy(cpu_threads=2, budget=BudgetPolicy(min_free_bytes=0, max_usage=1.0))
    repository = OptimizedModelRepository(ModelStore(tmp_path, Catalog.load(), {}), AudioDecoder(processes=1), policy)
    yield repository
    repository.close()


@pytest.fixture
def recordings(audio_dir: Path) -> Sequence[Path]:
    return sorted(audio_dir.glob("*.wav"))[:3]


def taking_turns(repository: OptimizedModelRepository, events: RecordedEvents) -> ModelPool:
    return ModelPool(
        repository,
        SystemClock(),
        events,
        default_options=LoadOptions(device="cpu", dtype="float32", quantization="none"),
        speech_options=LoadOptions(device="cpu"),
        arbiter=DeviceArbiter(Sharing.EXCLUSIVE, max_hold=HOLD),
    )


def several(first: GenerationRequest, count: int) -> list[GenerationRequest]:
    """The request, greedy, and others with seeds of their own."""
    seeded = [ask(400, RawText("x" * number), temperature=1.0, seed=number) for number in range(1, count)]
    return [first, *seeded]


async def written(pool: ModelPool, request: GenerationRequest) -> str:
    async with pool.lend("tiny", Task.TEXT) as model, aclosing(model.generate(request)) as chunks:
        return "".join([chunk.text async for chunk in chunks])


async def all_written(pool: ModelPool, requests: Sequence[GenerationRequest]) -> list[str]:
    return await asyncio.gather(*(written(pool, request) for request in requests))


async def heard(pool: ModelPool, audio: Path) -> str:
    request = TranscriptionRequest(language="en")
    async with pool.lend("ear", Task.SPEECH) as model, aclosing(model.transcribe(audio, request)) as events:
        return "".join([event.text async for event in events if isinstance(event, Transcript)])


async def test_a_text_model_that_left_for_damaged_files_is_there_again(
    repository: OptimizedModelRepository, tmp_path: Path
) -> None:
    damaged = tmp_path / "ear"
    damaged.mkdir()
    (damaged / "model.bin").write_bytes(b"these are no weights" * 100)
    (damaged / "config.json").write_text(json.dumps({"alignment_heads": [[0, 1]]}))
    (damaged / "vocabulary.json").write_text("[]")
    byte_tokenizer().save(str(damaged / "tokenizer.json"))
    events = RecordedEvents()
    pool = taking_turns(repository, events)
    text = await written(pool, ask(24))
    with pytest.raises(ModelLoadFailed, match=r"model\.bin is damaged"):
        await pool.load("ear")
    assert [event.returning for event in events.of(SwapFailed)] == [("tiny",)]
    assert await written(pool, ask(24)) == text
    assert [loaded.model.id for loaded in events.of(ModelLoaded)] == ["tiny"] * 2
    await pool.close()


@pytest.mark.weights("whisper:base")
async def test_long_answers_and_recordings_take_turns_and_are_what_they_are_alone(
    repository: OptimizedModelRepository, tmp_path: Path, model_store: ModelStore, recordings: Sequence[Path]
) -> None:
    (tmp_path / "ear").symlink_to(model_store.find("whisper:base").directory)
    events = RecordedEvents()
    pool = taking_turns(repository, events)
    requests = several(ask(400), 4)
    texts = await all_written(pool, requests)
    transcripts = [await heard(pool, audio) for audio in recordings]
    assert events.of(ModelSuspended) == []
    writing = asyncio.ensure_future(all_written(pool, requests))
    assert await asyncio.gather(*(heard(pool, audio) for audio in recordings)) == transcripts
    assert await writing == texts
    assert {one.model_id for one in events.of(ModelSuspended)} == {"tiny", "ear"}
    assert {one.model_id for one in events.of(ModelResumed)} == {"tiny", "ear"}
    await pool.close()
