"""Figures about memory, as values."""

from dataclasses import dataclass


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
    def vram_used(self) -> int:
        """Bytes in use on all GPUs together."""
        return sum(gpu.used for gpu in self.gpus)


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
