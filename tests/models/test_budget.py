"""The budget of a device: what is measured, what is promised, and what is never granted twice."""

import threading

import pytest

from domain.errors import InsufficientMemory
from domain.memory import GpuMemory, MemoryNeed, MemoryUsage
from models.budget import BudgetPolicy, Budgets

GIB = 1 << 30


class Machine:
    """A machine of 16 GiB with one GPU of 8, whose figures a test sets."""

    def __init__(self) -> None:
        self.rss = GIB
        self.available = 12 * GIB
        self.vram = GIB

    def usage(self) -> MemoryUsage:
        return MemoryUsage(
            self.rss, 4 * self.rss, 16 * GIB, self.available, (GpuMemory(0, "Imaginary GPU", 8 * GIB, self.vram),)
        )

    def take(self, size: int) -> None:
        self.rss += size
        self.available -= size


class Cache:
    """Something that was promised so much."""

    def __init__(self, untouched_bytes: int = 0) -> None:
        self.untouched_bytes = untouched_bytes


def budgets(machine: Machine, **policy: float) -> Budgets:
    return Budgets(BudgetPolicy(**{"min_free_bytes": 0, "max_usage": 1.0, **policy}), machine.usage)  # type: ignore[arg-type]


def test_room_is_what_the_tightest_bound_leaves() -> None:
    machine = Machine()
    assert budgets(machine).of("cpu").room == 12 * GIB
    assert budgets(machine, min_free_bytes=2 * GIB).of("cpu").room == 10 * GIB
    assert budgets(machine, max_usage=0.75).of("cpu").room == 8 * GIB
    assert budgets(machine, max_bytes=3 * GIB).of("cpu").room == 2 * GIB
    assert budgets(machine, gpu_fraction=0.5).of("cuda:0").room == 3 * GIB
    machine.available = 0
    assert budgets(machine).of("cpu").room == 0


def test_the_ceiling_is_what_could_be_had_if_every_model_left() -> None:
    machine = Machine()
    budget = budgets(machine, max_bytes=4 * GIB)
    assert budget.of("cpu").ceiling == 3 * GIB
    machine.take(2 * GIB)
    assert (budget.of("cpu").room, budget.of("cpu").ceiling) == (GIB, 3 * GIB)


def test_a_load_that_has_begun_is_counted_before_it_has_taken_anything_and_not_twice_afterwards() -> None:
    machine = Machine()
    budget = budgets(machine, max_bytes=4 * GIB)
    with budget.booked(MemoryNeed("cpu", 2 * GIB), "a"):
        assert budget.of("cpu").room == GIB
        machine.take(GIB)
        assert budget.of("cpu").room == GIB
        with (
            pytest.raises(InsufficientMemory, match="'b' needs about") as caught,
            budget.booked(MemoryNeed("cpu", 2 * GIB), "b"),
        ):
            pytest.fail("there is no room for it")
        assert caught.value.details == {"needed_bytes": 2 * GIB, "available_bytes": GIB}
        with budget.booked(MemoryNeed("cpu", GIB), "c"):
            assert budget.of("cpu").room == 0
            machine.take(2 * GIB)
            assert budget.of("cpu").room == 0
    assert (budget.of("cpu").promised, budget.of("cpu").room) == (0, 0)


def test_what_a_load_has_taken_is_not_held_against_the_next_one() -> None:
    machine = Machine()
    budget = budgets(machine, max_bytes=8 * GIB)
    first, second = budget.booked(MemoryNeed("cpu", 2 * GIB), "a"), budget.booked(MemoryNeed("cpu", GIB), "b")
    with second:
        with first:
            machine.take(2 * GIB)
        assert budget.of("cpu").promised == GIB
        machine.take(GIB)
        assert budget.of("cpu").promised == 0


def test_devices_have_budgets_of_their_own() -> None:
    budget = budgets(Machine())
    before = budget.of("cuda:0").room
    with budget.booked(MemoryNeed("cpu", GIB), "a"):
        assert budget.of("cuda:0").room == before


def test_what_a_cache_may_still_touch_is_promised_as_long_as_it_lives() -> None:
    budget, cache = budgets(Machine()), Cache(3 * GIB)
    budget.watch("cpu", cache)
    assert budget.of("cpu").promised == 3 * GIB
    cache.untouched_bytes = GIB
    assert budget.of("cpu").promised == GIB
    del cache
    assert budget.of("cpu").promised == 0


def test_many_who_ask_at_once_are_granted_what_there_is_and_no_more() -> None:
    budget = budgets(Machine(), max_bytes=5 * GIB)
    caches = [Cache() for _ in range(16)]
    for cache in caches:
        budget.watch("cpu", cache)
    granted: list[bool] = []

    def ask(cache: Cache) -> None:
        granted.append(budget.grant("cpu", GIB, lambda: setattr(cache, "untouched_bytes", GIB)))

    threads = [threading.Thread(target=ask, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == [False] * 12 + [True] * 4
    assert budget.of("cpu").room == 0
