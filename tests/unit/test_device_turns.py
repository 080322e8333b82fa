"""The end of a hold: who is still at work is suspended, waits in line, and goes on where it was."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from application.device_arbiter import DeviceArbiter, Sharing
from application.events import DeviceSwapped, ModelResumed, ModelSuspended
from application.model_pool import ModelPool
from application.ports import SpeechModel, TextModel
from application.residents import ResidentState
from domain.errors import (
    DeadlineExceeded,
    IngleError,
    InsufficientMemory,
    ModelLoadFailed,
    ModelLoading,
    Overloaded,
    RequestCancelled,
)
from domain.generation import GenerationRequest
from domain.model import Task
from domain.prompt import RawText
from domain.transcription import Segment, TranscriptionRequest
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import GIB, FakeModelRepository, embedding_spec, segment
from tests.fakes.virtual_time import settle, virtual_time

HOLD = 30.0
WORDS = [f"{number} " for number in range(100)]


@pytest.fixture
def pool(repository: FakeModelRepository, events: RecordedEvents) -> ModelPool:
    """Text and speech on a device that only one of them may have."""
    repository.specs.append(embedding_spec("vector:small"))
    repository.script("a:1b").text.chunks = WORDS
    repository.script("ear:base").speech.segments = [segment(number, f" {number}") for number in range(60)]
    return exclusive(repository, events)


def exclusive(repository: FakeModelRepository, events: RecordedEvents) -> ModelPool:
    arbiter = DeviceArbiter(Sharing.EXCLUSIVE, max_hold=HOLD)
    return ModelPool(repository, LoopClock(), events, keep_alive=300.0, load_timeout=200.0, arbiter=arbiter)


class Told(list[tuple[float, str]]):
    """What was written or heard, and when."""

    def say(self, text: str) -> None:
        self.append((asyncio.get_running_loop().time(), text))

    @property
    def text(self) -> str:
        return "".join(text for _, text in self)


async def write(pool: ModelPool, told: Told, name: str = "a", *, seconds: float | None = None) -> None:
    async with pool.lend(name, Task.TEXT) as model:
        await write_with(model, told, seconds)


async def write_with(model: TextModel, told: Told, seconds: float | None = None) -> None:
    request = GenerationRequest(RawText("count"), timeout_seconds=seconds)
    async with aclosing(model.generate(request)) as chunks:
        async for chunk in chunks:
            told.say(chunk.text)


async def hear(pool: ModelPool, told: Told, audio: Path) -> None:
    async with pool.lend("ear", Task.SPEECH) as model:
        await hear_with(model, told, audio)


async def hear_with(model: SpeechModel, told: Told, audio: Path) -> None:
    async with aclosing(model.transcribe(audio, TranscriptionRequest())) as events:
        async for event in events:
            if isinstance(event, Segment):
                told.say(event.text)


@asynccontextmanager
async def steps(repository: FakeModelRepository, *names: str) -> AsyncIterator[None]:
    """A word of `a` and a segment of `ear` take a second each."""
    gates = [repository.script("a:1b").text.between.shut(), repository.script("ear:base").speech.between.shut()]

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            for gate in gates:
                gate.let_through(gate.waiting)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        for gate in gates:
            gate.open()


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "audio"
    path.write_bytes(b"audio")
    return path


def swaps(events: RecordedEvents) -> Sequence[tuple[str, str]]:
    return [(swap.left, swap.came) for swap in events.of(DeviceSwapped)]


async def suspended(pool: ModelPool) -> list[str]:
    """Once `a` has been suspended for `ear`."""
    while not any(one.state is ResidentState.SUSPENDED for one in pool.residents()):  # noqa: ASYNC110 -- time is virtual
        await asyncio.sleep(1.0)
    await settle()
    return list(pool.standing_of("memory").suspended)


@virtual_time
async def test_a_long_answer_and_a_long_recording_take_turns_and_miss_nothing(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents, audio: Path
) -> None:
    written, heard = Told(), Told()
    async with steps(repository):
        writing = asyncio.create_task(write(pool, written))
        await asyncio.sleep(5.0)
        hearing = asyncio.create_task(hear(pool, heard, audio))
        await asyncio.gather(writing, hearing)
    assert written.text == "".join(WORDS)
    assert heard.text == "".join(f" {number}" for number in range(60))
    assert swaps(events)[:3] == [("text", "speech"), ("speech", "text"), ("text", "speech")]
    assert [swap.suspended for swap in events.of(DeviceSwapped)][:2] == [("a:1b",), ("ear:base",)]
    # One hold, one step and one swap, and a look at the clock now and then.
    for told in (written, heard):
        assert max(later - before for (before, _), (later, _) in itertools.pairwise(told)) <= HOLD + 3.0
    assert 35.0 <= heard[0][0] <= 37.0
    times = {round(one) for one, _ in written} & {round(one) for one, _ in heard}
    assert len(times) <= len(swaps(events)), "never both at once"
    assert len(events.of(ModelSuspended)) == len(events.of(ModelResumed))
    assert {one.requests for one in events.of(ModelSuspended)} == {1}
    await pool.close()


@virtual_time
async def test_a_suspended_model_is_told_as_such_and_takes_newcomers_who_wait(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents, audio: Path
) -> None:
    async with steps(repository):
        first, second, heard = Told(), Told(), Told()
        tasks = [asyncio.create_task(write(pool, first)), asyncio.create_task(hear(pool, heard, audio))]
        await asyncio.sleep(10.0)
        held_back = asyncio.create_task(write(pool, second))
        assert await suspended(pool) == ["a:1b"]
        standing = pool.standing_of("memory")
        assert (standing.holder, standing.waiting, standing.swaps_total) == ("speech", ("text",), 1)
        assert standing.last_swap is not None
        assert standing.last_swap.suspended == ("a:1b",)
        resident = next(one for one in pool.residents() if one.spec.id == "a:1b")
        assert (resident.model, resident.in_flight, resident.waits) == (None, 2, True)
        assert repository.in_memory == {"ear:base"}
        await asyncio.gather(*tasks, held_back)
    assert first.text == second.text == "".join(WORDS)
    assert repository.count_loads("a:1b") == 1 + sum(one.model_id == "a:1b" for one in events.of(ModelResumed))
    await pool.close()


@virtual_time
async def test_who_shares_a_device_is_never_suspended(
    repository: FakeModelRepository, events: RecordedEvents, audio: Path
) -> None:
    repository.script("a:1b").text.chunks = WORDS
    repository.memory_budget = GIB
    pool = ModelPool(repository, LoopClock(), events, arbiter=DeviceArbiter(Sharing.SHARED, max_hold=HOLD))
    async with steps(repository):
        writing = asyncio.create_task(write(pool, Told()))
        await settle()
        with pytest.raises(Overloaded):
            await hear(pool, Told(), audio)
        await writing
    assert repository.suspensions == []
    await pool.close()


@virtual_time
async def test_who_is_done_within_the_hold_is_not_suspended(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents, audio: Path
) -> None:
    repository.script("a:1b").text.chunks = WORDS[:25]
    async with steps(repository):
        await asyncio.gather(write(pool, Told()), hear(pool, Told(), audio))
    assert repository.suspensions == []
    assert swaps(events) == [("text", "speech")]
    await pool.close()


@virtual_time
async def test_a_load_that_fails_gives_the_place_back_to_who_was_suspended_for_it(
    pool: ModelPool, repository: FakeModelRepository, audio: Path
) -> None:
    repository.script("ear:base").load_failures.append(ModelLoadFailed("model.bin is damaged"))
    written = Told()
    async with steps(repository):
        writing = asyncio.create_task(write(pool, written))
        await settle()
        with pytest.raises(ModelLoadFailed, match="damaged"):
            await hear(pool, Told(), audio)
        await settle()
        assert repository.in_memory == {"a:1b"}
        await writing
    assert written.text == "".join(WORDS)
    await pool.close()


@virtual_time
async def test_the_deadline_of_a_suspended_request_passes_as_that_of_any_other(
    pool: ModelPool, repository: FakeModelRepository, audio: Path
) -> None:
    repository.script("a:1b").text.before_first.shut()
    async with steps(repository):
        writing = asyncio.create_task(write(pool, Told(), seconds=40.0))
        await settle()
        hearing = asyncio.create_task(hear(pool, Told(), audio))
        assert await suspended(pool) == ["a:1b"]
        with pytest.raises(DeadlineExceeded):
            await writing
        assert asyncio.get_running_loop().time() == pytest.approx(40.0)
        await settle()
        assert [one.spec.id for one in pool.residents()] == ["ear:base"], "nobody waits for it any more"
        await hearing
    assert repository.count_loads("a:1b") == 1
    await pool.close()


@pytest.mark.parametrize("how", ["left", "forced", "closed"])
@pytest.mark.parametrize("when", ["suspending", "in line", "returning"])
@virtual_time
async def test_a_suspended_request_can_be_ended_at_any_time(
    pool: ModelPool, repository: FakeModelRepository, audio: Path, how: str, when: str
) -> None:
    suspending = repository.script("a:1b").suspend
    if when == "suspending":
        suspending.shut()
    async with steps(repository):
        writing = asyncio.create_task(write(pool, Told()))
        await settle()
        hearing = asyncio.create_task(hear(pool, Told(), audio))
        assert await suspended(pool) == ["a:1b"]
        if when == "returning":
            returning = repository.script("a:1b").load.shut()
            hearing.cancel()
            await returning.arrived()
        newcomer = asyncio.create_task(write(pool, Told()))
        await settle()
        ending: asyncio.Task[object] | None = None
        match how:
            case "left":
                writing.cancel()
                newcomer.cancel()
            case "forced":
                ending = asyncio.create_task(pool.unload("a", force=True))
            case _:
                ending = asyncio.create_task(pool.close())
        await settle()
        for gate in (suspending, repository.script("a:1b").load):
            gate.open()
        outcomes = await asyncio.gather(writing, newcomer, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError | IngleError) for one in outcomes), outcomes
        if how == "forced":
            assert {type(one) for one in outcomes} == {RequestCancelled}
        if ending is not None:
            await ending
        await settle()
        assert "a:1b" not in repository.in_memory or (how, when) == ("left", "returning")
        if how != "closed" and when != "returning":
            assert not hearing.done()
            await hearing
    await asyncio.gather(hearing, return_exceptions=True)
    await pool.close()
    assert repository.in_memory == set()


@virtual_time
async def test_a_model_that_cannot_return_fails_its_requests_with_the_reason(
    pool: ModelPool, repository: FakeModelRepository, audio: Path
) -> None:
    async with steps(repository):
        writing = asyncio.create_task(write(pool, Told()))
        await settle()
        hearing = asyncio.create_task(hear(pool, Told(), audio))
        await suspended(pool)
        newcomer = asyncio.create_task(write(pool, Told()))
        repository.script("a:1b").load_failures.extend([InsufficientMemory("too little"), InsufficientMemory("still")])
        for task in (writing, newcomer):
            with pytest.raises(InsufficientMemory, match="ran out of memory twice"):
                await task
        await hearing
        await write(pool, Told())
    await pool.close()


@virtual_time
async def test_a_model_that_cannot_be_suspended_works_on(
    pool: ModelPool, repository: FakeModelRepository, audio: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository.script("a:1b").suspend_failures.append(RuntimeError("stuck"))
    written = Told()
    async with steps(repository):
        writing = asyncio.create_task(write(pool, written))
        await settle()
        with pytest.raises(Overloaded, match="'a:1b' is using"):
            await hear(pool, Told(), audio)
        await writing
    assert written.text == "".join(WORDS)
    assert "'a:1b' could not be suspended" in caplog.text
    await pool.close()


@virtual_time
async def test_who_was_suspended_bears_with_a_model_that_cannot_be(
    pool: ModelPool, repository: FakeModelRepository, audio: Path
) -> None:
    repository.script("ear:base").suspend_failures.append(RuntimeError("stuck"))
    written, heard = Told(), Told()
    async with steps(repository):
        await asyncio.gather(write(pool, written), hear(pool, heard, audio))
    assert (written.text, len(heard)) == ("".join(WORDS), 60)
    assert repository.suspensions[0] == "a:1b"
    await pool.close()


@virtual_time
async def test_a_drain_lets_suspended_requests_finish(
    pool: ModelPool, repository: FakeModelRepository, audio: Path
) -> None:
    written, heard = Told(), Told()
    async with steps(repository):
        tasks = [asyncio.create_task(write(pool, written)), asyncio.create_task(hear(pool, heard, audio))]
        assert await suspended(pool) == ["a:1b"]
        await pool.drain()
    assert all(task.done() for task in tasks)
    assert (written.text, len(heard)) == ("".join(WORDS), 60)
    await pool.close()


@virtual_time
async def test_a_newcomer_to_a_suspended_model_waits_no_longer_than_for_a_load(
    repository: FakeModelRepository, events: RecordedEvents, audio: Path
) -> None:
    pool = ModelPool(
        repository, LoopClock(), events, load_timeout=20.0, arbiter=DeviceArbiter(Sharing.EXCLUSIVE, max_hold=5.0)
    )
    repository.script("a:1b").text.chunks = WORDS
    async with steps(repository):
        writing = asyncio.create_task(write(pool, Told()))
        await settle()
        repository.script("ear:base").load.shut()
        hearing = asyncio.create_task(hear(pool, Told(), audio))
        await suspended(pool)
        with pytest.raises(ModelLoading):
            await write(pool, Told())
        repository.script("ear:base").load.open()
        await asyncio.gather(writing, hearing, return_exceptions=True)
    await pool.close()


@virtual_time
async def test_embeddings_models_that_do_not_end_in_time_are_not_suspended(
    pool: ModelPool, repository: FakeModelRepository, audio: Path
) -> None:
    async with pool.lend("vector", Task.EMBEDDING):
        with pytest.raises(Overloaded, match="vector"):
            await hear(pool, Told(), audio)
    assert repository.suspensions == []
    await pool.close()
