"""Memory that is short: idle models leave for it, and when nothing helps no work is begun."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from application.events import ModelUnloaded
from application.model_pool import ModelPool
from application.shortages import Shortage, Shortages
from domain.errors import Overloaded
from domain.keep_alive import FOREVER
from domain.memory import MemoryBounds, MemoryUsage, Pressure
from domain.model import Task, WeightFormat
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import GIB, FakeModelRepository, text_spec
from tests.fakes.virtual_time import settle, virtual_time

BOUNDS = MemoryBounds.below(0.9)


@pytest.fixture
def shortages() -> Shortages:
    return Shortages()


@pytest.fixture
def repository() -> FakeModelRepository:
    """Models of 1 GiB in a memory of 20."""
    return FakeModelRepository(*(text_spec(f"{name}:1b") for name in "abc"), memory_budget=20 * GIB)


@pytest.fixture
def pool(repository: FakeModelRepository, events: RecordedEvents, shortages: Shortages) -> ModelPool:
    return ModelPool(repository, LoopClock(), events, bounds=BOUNDS, shortages=shortages)


@asynccontextmanager
async def watched(pool: ModelPool) -> AsyncGenerator[None, None]:
    watch = asyncio.create_task(pool.watch_memory())
    await settle()
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait({watch})


async def use(pool: ModelPool, name: str) -> None:
    async with pool.lend(name, Task.TEXT):
        pass


@pytest.mark.parametrize(
    ("used", "pressure", "excess"),
    [(0.5, Pressure.NONE, 0), (0.84, Pressure.NONE, 0), (0.87, Pressure.HIGH, 20), (0.91, Pressure.FULL, 60)],
)
def test_pressure_is_told_before_it_is_too_late(used: float, pressure: Pressure, excess: int) -> None:
    usage = MemoryUsage(1, 1, total=1000, available=round(1000 * (1 - used)))
    assert BOUNDS.pressure(usage) is pressure
    assert BOUNDS.excess(usage) == pytest.approx(excess, abs=1)


def test_a_bound_of_everything_is_never_passed() -> None:
    assert MemoryBounds().pressure(MemoryUsage(1, 1, total=1000, available=0)) is Pressure.NONE
    assert MemoryBounds.below(0.01).high == 0.0


@virtual_time
async def test_above_the_bound_no_work_is_begun_and_what_was_begun_goes_on(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    async with pool.lend("a", Task.TEXT):
        repository.others_hold(18 * GIB)
        await asyncio.sleep(1.0)
        with pytest.raises(
            Overloaded, match=r"95% of this machine's memory .* above 90% \(MAX_MEMORY_USAGE\)"
        ) as caught:
            await use(pool, "a")
        assert caught.value.retry_after_seconds == 5.0
        assert not pool.has_memory()
        assert repository.in_memory == {"a:1b"}
    repository.others_hold(0)
    await asyncio.sleep(1.0)
    assert pool.has_memory()
    await use(pool, "a")


@virtual_time
async def test_many_requests_share_one_look_at_the_memory(pool: ModelPool, repository: FakeModelRepository) -> None:
    for _ in range(100):
        await use(pool, "a")
    assert repository.looks <= 2


@virtual_time
async def test_a_model_that_lies_elsewhere_needs_no_memory_here(
    pool: ModelPool, repository: FakeModelRepository
) -> None:

    repository.specs[0] = replace(repository.specs[0], format=WeightFormat.REMOTE)
    repository.others_hold(19 * GIB)
    await asyncio.sleep(1.0)
    await use(pool, "a")


@virtual_time
async def test_idle_models_leave_before_the_bound_is_reached_as_many_as_it_takes(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    async with watched(pool):
        await pool.load("a", keep_alive=1000.0)
        await pool.load("b", keep_alive=100.0)
        await pool.load("c", keep_alive=FOREVER)
        await asyncio.sleep(5.0)
        assert repository.unloads == []
        repository.others_hold(int(14.5 * GIB))
        await asyncio.sleep(2.0)
        assert repository.unloads == ["b:1b"], "the one that would have left first, and no more"
        assert ModelUnloaded("b:1b", "evicted", GIB) in events
        repository.others_hold(17 * GIB)
        await asyncio.sleep(2.0)
        assert repository.in_memory == set()


@virtual_time
async def test_models_in_use_and_pinned_ones_stay_however_short_memory_is(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    async with watched(pool):
        await pool.load("a", pin=True)
        async with pool.lend("b", Task.TEXT):
            repository.others_hold(17 * GIB)
            await asyncio.sleep(60.0)
            assert repository.in_memory == {"a:1b", "b:1b"}
        await asyncio.sleep(2.0)
        assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_garbage_goes_first_and_is_not_looked_for_again_while_memory_stays_short(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    async with watched(pool):
        await pool.load("a")
        repository.garbage_bytes = 17 * GIB
        await asyncio.sleep(4.0)
        assert (repository.garbage_bytes, repository.in_memory) == (0, {"a:1b"})
        repository.others_hold(19 * GIB)
        await asyncio.sleep(60.0)
        assert repository.trims == 2


@virtual_time
async def test_an_unload_that_fails_does_not_end_the_watch(pool: ModelPool, repository: FakeModelRepository) -> None:
    repository.script("a:1b").unload_failures.append(OSError("the driver"))
    async with watched(pool):
        await pool.load("a", keep_alive=1.0)
        await pool.load("b")
        repository.others_hold(18 * GIB)
        await asyncio.sleep(5.0)
        assert repository.in_memory == set()


# -- caches that grow -------------------------------------------------------------------------------------


class Cache:
    """Asks for a GiB, as a cache of a model in memory would."""

    def __init__(self, shortages: Shortages, repository: FakeModelRepository) -> None:
        self.shortages = shortages
        self.repository = repository
        self.asked_again = 0

    def again(self) -> None:
        self.asked_again += 1

    def grow(self) -> bool:
        """True once there is room; else somebody may be told."""
        if self.repository.budget("memory").room >= GIB:
            return True
        return not self.shortages.tell(Shortage("memory", GIB, self.again))


@pytest.fixture
def cache(shortages: Shortages, repository: FakeModelRepository) -> Cache:
    return Cache(shortages, repository)


@virtual_time
async def test_an_idle_model_leaves_for_a_cache_that_grows(
    pool: ModelPool, repository: FakeModelRepository, cache: Cache
) -> None:
    repository.memory_budget = 3 * GIB
    async with watched(pool), pool.lend("a", Task.TEXT):
        await pool.load("b", keep_alive=50.0)
        await pool.load("c", keep_alive=10.0)
        assert not cache.grow()
        await settle()
        assert repository.unloads == ["c:1b"]
        assert cache.asked_again == 1
        assert cache.grow()


@virtual_time
async def test_nobody_who_is_busy_or_pinned_leaves_for_a_cache(
    pool: ModelPool, repository: FakeModelRepository, cache: Cache
) -> None:
    repository.memory_budget = 2 * GIB
    async with watched(pool), pool.lend("a", Task.TEXT):
        await pool.load("b", pin=True)
        for rounds in range(1, 20):
            assert not cache.grow()
            await asyncio.sleep(0.2)
            assert cache.asked_again == rounds, "it may ask again, and is told so each time"
        assert repository.unloads == []
        assert repository.reclaims <= 5, "asking often does not cost the others their caches each time"


@virtual_time
async def test_what_is_leaving_anyway_is_waited_for_and_nobody_else_has_to_go(
    pool: ModelPool, repository: FakeModelRepository, cache: Cache
) -> None:
    repository.memory_budget = 3 * GIB
    gate = repository.script("b:1b").unload.shut()
    async with watched(pool), pool.lend("a", Task.TEXT):
        await pool.load("b")
        await pool.load("c")
        leaving = asyncio.create_task(pool.unload("b"))
        await gate.arrived()
        assert not cache.grow()
        await settle()
        gate.open()
        await leaving
        await settle()
        assert repository.in_memory == {"a:1b", "c:1b"}
        assert cache.asked_again == 1


@virtual_time
async def test_where_nobody_listens_a_cache_is_told_so_at_once(pool: ModelPool, shortages: Shortages) -> None:
    told = Shortage("memory", GIB, lambda: None)
    assert not shortages.tell(told)
    async with watched(pool):
        assert shortages.tell(told)
    assert not shortages.tell(told)


@virtual_time
async def test_who_was_told_to_wait_asks_again_when_the_watch_ends(pool: ModelPool, cache: Cache) -> None:
    cache.repository.memory_budget = 0
    watch = asyncio.create_task(pool.watch_memory())
    await settle()
    assert not cache.grow()
    watch.cancel()
    await asyncio.wait({watch})
    assert cache.asked_again == 1


def test_of_many_wishes_from_many_threads_each_device_keeps_the_largest() -> None:
    shortages = Shortages()
    woken: list[int] = []

    def again() -> None:
        return None

    def tell(size: int) -> Callable[[], None]:
        return lambda: woken.append(shortages.tell(Shortage("cpu" if size % 2 else "cuda:0", size, again)))

    with shortages.heard(lambda: None):
        threads = [threading.Thread(target=tell(size)) for size in range(1, 21)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert woken == [True] * 20
        assert {(one.device, one.bytes) for one in shortages.take()} == {("cpu", 19), ("cuda:0", 20)}
        assert shortages.take() == []
