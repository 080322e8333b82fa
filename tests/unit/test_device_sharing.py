"""Speech and text on one device: who gets it, for how long, and what a swap that fails leaves behind."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from application.device_arbiter import DeviceArbiter, Sharing
from application.events import DeviceSwapped
from application.model_pool import ModelPool
from domain.errors import ModelLoadFailed
from domain.model import Task
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import GIB, FakeModelRepository
from tests.fakes.virtual_time import settle, virtual_time

HOLD = 30.0
WORK = 4.0


def sharing(repository: FakeModelRepository, events: RecordedEvents, how: Sharing) -> ModelPool:
    arbiter = DeviceArbiter(how, max_hold=HOLD)
    return ModelPool(repository, LoopClock(), events, keep_alive=300.0, load_timeout=60.0, arbiter=arbiter)


async def crowd(pool: ModelPool, names: Sequence[str], seconds: float) -> list[tuple[str, float]]:
    """Three callers of each model who ask again and again: who was served, and how long each had waited."""
    served: list[tuple[str, float]] = []
    now = asyncio.get_running_loop().time

    async def ask(name: str, offset: float) -> None:
        await asyncio.sleep(offset)
        while (asked := now()) < seconds:
            async with pool.lend(name, Task.TEXT) if name == "a" else pool.lend(name, Task.SPEECH):
                served.append((name, now() - asked))
                await asyncio.sleep(WORK)

    await asyncio.gather(*(ask(name, offset) for name in names for offset in (0.0, 1.0, 2.0)))
    return served


@pytest.mark.parametrize("how", [Sharing.EXCLUSIVE, Sharing.AUTO])
@virtual_time
async def test_two_full_queues_take_turns_within_the_hold_and_not_request_by_request(
    repository: FakeModelRepository, events: RecordedEvents, how: Sharing
) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, how)
    served = await crowd(pool, ["a", "ear"], 300.0)
    counts = [sum(name == wanted for name, _ in served) for wanted in ("a", "ear")]
    assert min(counts) > 40
    assert max(waited for _, waited in served) <= HOLD + WORK
    swaps = sum(one != other for (one, _), (other, _) in itertools.pairwise(served))
    assert swaps < len(served) / 2
    assert {(swap.left, swap.came) for swap in events.of(DeviceSwapped)} == {("text", "speech"), ("speech", "text")}
    await pool.close()


@virtual_time
async def test_groups_that_share_and_fit_never_swap(repository: FakeModelRepository, events: RecordedEvents) -> None:
    repository.memory_budget = 2 * GIB
    pool = sharing(repository, events, Sharing.SHARED)
    served = await crowd(pool, ["a", "ear"], 100.0)
    assert {waited for _, waited in served} == {0.0}
    assert events.of(DeviceSwapped) == []
    await pool.close()


@virtual_time
async def test_one_request_does_not_take_the_device_from_those_who_are_at_work(
    repository: FakeModelRepository, events: RecordedEvents
) -> None:
    pool = sharing(repository, events, Sharing.EXCLUSIVE)
    async with pool.lend("a", Task.TEXT):
        waiting = asyncio.create_task(pool.load("ear"))
        await asyncio.sleep(HOLD - 1.0)
        assert (repository.in_memory, waiting.done()) == ({"a:1b"}, False)
    await waiting
    assert repository.in_memory == {"ear:base"}
    await pool.close()


@virtual_time
async def test_a_swap_that_fails_leaves_the_device_to_those_who_had_it(
    repository: FakeModelRepository, events: RecordedEvents
) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, Sharing.AUTO)
    await pool.load("a")
    repository.script("ear:base").load_failures.append(ModelLoadFailed("model.bin is damaged"))
    with pytest.raises(ModelLoadFailed, match="damaged"):
        await pool.load("ear")
    async with pool.lend("a", Task.TEXT) as model:
        assert model.info.is_loaded
    await settle()
    assert repository.in_memory == {"a:1b"}
    assert pool.standing_of("memory").holder == "text"
    await pool.close()
