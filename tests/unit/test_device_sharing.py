"""Speech and text on one device: who gets it, for how long, and what a swap that fails leaves behind."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from application.device_arbiter import DeviceArbiter, Sharing
from application.events import DeviceSwapped, ModelLoadRefused, SwapFailed
from application.model_pool import ModelPool
from application.residents import ResidentState
from domain.errors import ModelLoadFailed
from domain.model import LoadOptions, Task
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


async def failed_swap(pool: ModelPool, repository: FakeModelRepository) -> None:
    """The weights of `ear` are damaged, which is seen when those in its way have left."""
    repository.script("ear:base").load_failures.append(ModelLoadFailed("model.bin is damaged"))
    with pytest.raises(ModelLoadFailed, match="damaged"):
        await pool.load("ear")


@pytest.mark.parametrize("how", [Sharing.EXCLUSIVE, Sharing.AUTO])
@virtual_time
async def test_a_swap_that_fails_leaves_the_device_to_those_who_had_it(
    repository: FakeModelRepository, events: RecordedEvents, how: Sharing
) -> None:
    repository.memory_budget = GIB if how is Sharing.AUTO else 9 * GIB
    pool = sharing(repository, events, how)
    await pool.load("a", LoadOptions(num_ctx=512), keep_alive=1000.0)
    await failed_swap(pool, repository)
    await settle()
    assert repository.in_memory == {"a:1b"}
    [resident] = pool.residents()
    assert (resident.state, resident.in_flight, resident.keep_alive) == (ResidentState.LOADED, 0, 1000.0)
    assert repository.loads[-1] == ("a:1b", LoadOptions(num_ctx=512))
    assert events.of(SwapFailed) == [SwapFailed("memory", "ear:base", ("a:1b",))]
    assert events.of(DeviceSwapped) == []
    assert pool.standing_of("memory").holder == "text"
    await pool.close()


@virtual_time
async def test_all_who_left_come_back_those_last_that_were_given_up_first(
    repository: FakeModelRepository, events: RecordedEvents
) -> None:
    pool = sharing(repository, events, Sharing.EXCLUSIVE)
    await pool.load("a", keep_alive=50.0)
    await pool.load("b", keep_alive=100.0)
    gate = repository.script("ear:base").load.shut()
    failing = asyncio.create_task(failed_swap(pool, repository))
    await gate.arrived()
    repository.others_hold(repository.memory_budget - GIB)
    gate.open()
    await failing
    await settle()
    assert events.of(SwapFailed) == [SwapFailed("memory", "ear:base", ("b:1b", "a:1b"))]
    assert repository.in_memory == {"b:1b"}, "there is room for one"
    assert repository.loads_over_budget == 0
    await pool.close()


@virtual_time
async def test_who_asks_for_a_model_that_is_coming_back_is_served(
    repository: FakeModelRepository, events: RecordedEvents
) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, Sharing.AUTO)
    await pool.load("a")
    gate = repository.script("a:1b").load.shut()
    await failed_swap(pool, repository)
    await gate.arrived()
    async with asyncio.TaskGroup() as callers:
        for _ in range(2):
            callers.create_task(pool.load("a"))
        await settle()
        gate.open()
    assert repository.count_loads("a:1b") == 2
    await pool.close()


@virtual_time
async def test_whose_place_is_taken_stays_away_until_somebody_asks(
    repository: FakeModelRepository, events: RecordedEvents
) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, Sharing.AUTO)
    await pool.load("a")
    gate = repository.script("ear:base").load.shut()
    failing = asyncio.create_task(failed_swap(pool, repository))
    await gate.arrived()
    repository.others_hold(GIB // 2)
    gate.open()
    await failing
    await settle()
    assert (repository.in_memory, pool.failure_of("a:1b")) == (set(), None)
    assert [refused.model_id for refused in events.of(ModelLoadRefused)] == ["ear:base", "a:1b"]
    repository.others_hold(0)
    await pool.load("a")
    await pool.close()


@virtual_time
async def test_a_return_that_fails_is_not_tried_again(repository: FakeModelRepository, events: RecordedEvents) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, Sharing.AUTO)
    await pool.load("a")
    repository.script("a:1b").load_failures.append(ModelLoadFailed("so is this one"))
    await failed_swap(pool, repository)
    await asyncio.sleep(100.0)
    assert (repository.in_memory, repository.count_loads("a:1b"), repository.count_loads("ear:base")) == (set(), 2, 1)
    assert len(events.of(SwapFailed)) == 1
    await pool.close()


@pytest.mark.parametrize("reason", ["unloaded", "optimised", "drained", "expired", "removed"])
@virtual_time
async def test_a_model_that_nobody_would_find_any_more_does_not_come_back(
    repository: FakeModelRepository, events: RecordedEvents, reason: str
) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, Sharing.AUTO)
    await pool.load("a", keep_alive=40.0)
    gate = repository.script("ear:base").load.shut()
    failing = asyncio.create_task(failed_swap(pool, repository))
    await gate.arrived()
    match reason:
        case "unloaded":
            assert not (await pool.unload("a")).was_loaded
        case "optimised":
            await pool.optimize(aggressive=True)
        case "drained":
            draining = asyncio.create_task(pool.drain())
            await settle()
        case "expired":
            await asyncio.sleep(41.0)
        case _:
            async with pool.removing("a"):
                gate.open()
                await failing
                await settle()
                assert repository.in_memory == set()
    gate.open()
    await failing
    await settle()
    assert repository.in_memory == set()
    assert events.of(SwapFailed) == []
    if reason == "drained":
        await draining
    await pool.close()


@virtual_time
async def test_a_return_that_waits_in_line_ends_with_the_pool(
    repository: FakeModelRepository, events: RecordedEvents
) -> None:
    repository.memory_budget = GIB
    pool = sharing(repository, events, Sharing.AUTO)
    await pool.load("a")
    gate = repository.script("ear:base").load.shut()
    failing = asyncio.create_task(failed_swap(pool, repository))
    await gate.arrived()
    repository.script("b:1b").load.shut()
    other = asyncio.create_task(pool.load("b"))
    third = asyncio.create_task(pool.load("c"))
    await settle()
    gate.open()
    await failing
    await settle()
    assert {resident.spec.id for resident in pool.residents()} == {"a:1b", "b:1b", "c:1b"}
    closing = asyncio.create_task(pool.close())
    repository.script("b:1b").load.open()
    await closing
    await asyncio.gather(other, third, return_exceptions=True)
    assert repository.count_loads("a:1b") == 1
