"""Figures about memory, as values."""

import math
from dataclasses import dataclass
from enum import IntEnum

_WARNING = 0.05


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """One GPU, device-wide: every runtime's and every process's memory counts. Sizes in bytes."""

    index: int
    name: str
    total: int
    used: int

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self.total - self.used


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """This process and its machine (or its cgroup, where that has a limit). Sizes in bytes.

    `kv_cache` is what the text models' keys and values may take now, `prefix_cache` the part of it that is kept for
    requests to come; None where nobody knows.
    """

    rss: int
    vms: int
    total: int
    available: int
    gpus: tuple[GpuMemory, ...] = ()
    kv_cache: int | None = None
    prefix_cache: int | None = None

    @property
    def process_percent(self) -> float:
        """This process's share of the memory there is, 0 to 100."""
        return 100.0 * self.rss / self.total if self.total else 0.0

    @property
    def used_share(self) -> float:
        """How much of the memory there is anybody holds, 0 to 1."""
        return 1.0 - self.available / self.total if self.total else 0.0

    @property
    def vram_used(self) -> int:
        """Bytes in use on all GPUs together."""
        return sum(gpu.used for gpu in self.gpus)


class Pressure(IntEnum):
    """How short the machine is of memory."""

    NONE = 0
    HIGH = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """Shares of the machine's memory: above `high` idle models leave and none is loaded, above `full` no work begins.

    1.0 is never passed.
    """

    high: float = 1.0
    full: float = 1.0

    @classmethod
    def below(cls, full: float) -> "MemoryBounds":
        """With as much between the two as it takes to be warned in time."""
        return cls(max(0.0, full - _WARNING), full)

    def pressure(self, usage: MemoryUsage) -> Pressure:
        """Which of the two is passed."""
        if usage.used_share > self.full:
            return Pressure.FULL
        return Pressure.HIGH if usage.used_share > self.high else Pressure.NONE

    def excess(self, usage: MemoryUsage) -> int:
        """Bytes that are in use above `high`; never negative."""
        return max(0, math.ceil((usage.used_share - self.high) * usage.total))


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a model is expected to take of the memory of `device`, before it is loaded. Sizes in bytes.

    `cache` is what its context is promised at once, `workspace` what a step computes in.
    """

    device: str
    weights: int
    cache: int = 0
    workspace: int = 0

    @property
    def is_on_gpu(self) -> bool:
        """Whether it is a GPU's memory, and not the machine's own."""
        return self.device.startswith("cuda")

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What models may take of one device's memory, now. Sizes in bytes.

    `limit` is the most that may be held there, `held` what is, measured; `free` is what the machine has left above
    what must stay free. `promised` is given away and not taken yet: loads under way, caches that fill up later. `base`
    is the part of `held` that no model gives back.
    """

    device: str
    limit: int
    held: int
    free: int
    promised: int = 0
    base: int = 0

    @property
    def ceiling(self) -> int:
        """What could be taken if every model left."""
        return max(0, min(self.limit, self.free + self.held) - self.base)

    @property
    def room(self) -> int:
        """What may be taken now; never negative."""
        return max(0, min(self.limit - self.held, self.free) - self.promised)


@dataclass(frozen=True, slots=True)
class MemoryFreed:
    """What an optimisation did: measured before and after, and the steps taken in words."""

    before: MemoryUsage
    after: MemoryUsage
    actions: tuple[str, ...] = ()

    @property
    def bytes_freed(self) -> int:
        """Never negative: what others took meanwhile is not ours to subtract."""
        return max(0, self.before.rss - self.after.rss) + max(0, self.before.vram_used - self.after.vram_used)
