"""The memory that models may take on each device: measured, with what is promised and not yet taken booked apart."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from application.shortages import OnShortage, Shortage
from domain.errors import InsufficientMemory
from domain.memory import MemoryBudget, MemoryNeed, MemoryUsage
from models import memory


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """What a deployment leaves to models. Bytes and shares.

    `min_free_bytes` stay free in the machine's memory, of which no more than `max_usage` may be in use; `max_bytes`
    is the most that this process may hold of it, 0 for no bound of its own. `gpu_fraction` of each GPU may be in use.
    """

    min_free_bytes: int = 2 << 30
    max_usage: float = 0.9
    max_bytes: int = 0
    gpu_fraction: float = 0.8


class Growing(Protocol):
    """Something that has been promised more memory than it has touched so far."""

    @property
    def untouched_bytes(self) -> int:
        """What it may still touch without asking."""
        ...


@dataclass(slots=True)
class _Bookings:
    """Loads under way on one device. `baseline` is what was held there before they took anything."""

    total: int = 0
    loads: int = 0
    baseline: int = 0

    def outstanding(self, held: int) -> int:
        """What they have not taken yet, judged by how much more is held now."""
        return max(0, self.total - max(0, held - self.baseline))


class Budgets:
    """One budget a device. May be asked and told from any thread; what is granted is never granted twice."""

    def __init__(self, policy: BudgetPolicy, usage: Callable[[], MemoryUsage] = memory.usage) -> None:
        self._policy = policy
        self._usage = usage
        self._lock = threading.RLock()
        self._bookings: dict[str, _Bookings] = {}
        self._caches: dict[str, weakref.WeakSet[Growing]] = {}
        self._least_held: dict[str, int] = {}

    def of(self, device: str) -> MemoryBudget:
        """The budget of `cpu` or `cuda:N`, now."""
        with self._lock:
            limit, held, free = self._measure(device)
            promised = sum(cache.untouched_bytes for cache in self._caches.get(device, ()))
            if (bookings := self._bookings.get(device)) is not None:
                promised += bookings.outstanding(held)
            base = self._least_held[device] = min(held, self._least_held.get(device, held))
            return MemoryBudget(device, limit, held, free, promised, base)

    @contextmanager
    def booked(self, need: MemoryNeed, name: str) -> Iterator[None]:
        """Keep `need` for a load while the block runs. Raises InsufficientMemory if it is not there."""
        self._book(need, name)
        try:
            yield
        finally:
            self._end(need)

    def _book(self, need: MemoryNeed, name: str) -> None:
        with self._lock:
            budget = self.of(need.device)
            if need.total > budget.room:
                raise InsufficientMemory(
                    f"'{name}' needs about {_gib(need.total)} and {_gib(budget.room)} may be taken on {need.device}",
                    needed_bytes=need.total,
                    available_bytes=budget.room,
                )
            bookings = self._bookings.setdefault(need.device, _Bookings(baseline=budget.held))
            bookings.total += need.total
            bookings.loads += 1

    def _end(self, need: MemoryNeed) -> None:
        with self._lock:
            bookings = self._bookings[need.device]
            bookings.loads -= 1
            bookings.total -= need.total
            # What this load took is held from now on, for good.
            bookings.baseline += need.total
            if not bookings.loads:
                del self._bookings[need.device]

    def watch(self, device: str, cache: Growing) -> None:
        """Count what `cache` has not touched yet as promised, as long as it lives."""
        with self._lock:
            self._caches.setdefault(device, weakref.WeakSet()).add(cache)

    def grant(self, device: str, size: int, take: Callable[[], None]) -> bool:
        """Call `take`, after which the memory must count as promised, if there is room for `size` bytes."""
        with self._lock:
            if size > self.of(device).room:
                return False
            take()
            return True

    def _measure(self, device: str) -> tuple[int, int, int]:
        """(limit, held, free) in bytes."""
        now = self._usage()
        policy = self._policy
        if device == "cpu":
            limit = int(now.total * policy.max_usage)
            floor = max(policy.min_free_bytes, now.total - limit)
            return min(limit, policy.max_bytes or limit), now.rss, now.available - floor
        gpu = now.gpus[int(device.partition(":")[2])]
        # The driver's figures: they see every runtime's memory and other programs' too.
        return int(gpu.total * policy.gpu_fraction), gpu.used, gpu.free


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """The budget of one device, for a cache that grows there. `again` wakes whoever asks for it."""

    budgets: Budgets
    device: str
    on_shortage: OnShortage
    again: Callable[[], None]

    def watch(self, cache: Growing) -> None:
        """Count what `cache` has not touched yet as promised, as long as it lives."""
        self.budgets.watch(self.device, cache)

    def grant(self, size: int, take: Callable[[], None]) -> bool:
        """Call `take` if `size` more bytes may be promised."""
        return self.budgets.grant(self.device, size, take)

    def lacks(self, size: int) -> bool:
        """Say that `size` more bytes are wanted in vain; True if somebody makes room and then calls `again`."""
        return self.on_shortage(Shortage(self.device, size, self.again))


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
