"""How much of the KV cache may be used: what was promised, more while there is room, less when others need it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from models.text.block_manager import BlockManager
from models.text.kv_cache import KVCache

# The cache grows by so many tokens at once, so that it asks seldom and its blocks lie together.
_SLAB_TOKENS = 1024


class CacheBudget(Protocol):
    """Whoever knows what may be taken of the device's memory. It may be asked from any thread."""

    def watch(self, cache: "CacheMemory") -> None:
        """Count what `cache` has not touched yet as promised, as long as it lives."""
        ...

    def grant(self, size: int, take: Callable[[], None]) -> bool:
        """Call `take` if `size` more bytes may be promised."""
        ...

    def lacks(self, size: int) -> bool:
        """Say that `size` more bytes are wanted; True if somebody makes room and then has the cache ask again."""
        ...


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Bytes of the cache: `granted` in all, of them `used` by sequences and `prefix` kept for those to come."""

    granted: int
    used: int
    prefix: int


def sum_of(uses: Iterable[CacheUse]) -> CacheUse:
    """Of several caches."""
    total = CacheUse(0, 0, 0)
    for use in uses:
        total = CacheUse(total.granted + use.granted, total.used + use.used, total.prefix + use.prefix)
    return total


class CacheMemory:
    """The cache and the blocks that manage it, as one thing that grows and shrinks; for the owner thread.

    `promised_tokens` can always be had; what lies above comes and goes. Where the cache cannot give memory back, all
    of it is granted at once and stays.
    """

    def __init__(self, cache: KVCache, promised_tokens: int, wanted_tokens: int, budget: CacheBudget | None) -> None:
        """`wanted_tokens` are granted at once if there is room. Without a budget all of the cache is."""
        self._cache = cache
        self._budget = budget if cache.can_discard else None
        size = cache.block_size
        promised = None if self._budget is None else -(-promised_tokens // size)
        self.blocks = BlockManager(cache.tokens // size, size, granted=promised, ask=self._more)
        self._promised = self._booked = self.blocks.num_granted
        self._awaits = False
        if self._budget is not None:
            self._budget.watch(self)
            # What is wanted beyond the promise costs nobody a model.
            wanted = min(-(-wanted_tokens // size), self.blocks.num_blocks) - self._promised
            self.blocks.grant(self._granted(max(0, wanted)))

    @property
    def untouched_bytes(self) -> int:
        """What may still be touched without asking; read from any thread, never less than the truth."""
        if not self._cache.can_discard:
            return 0
        not_yet_given = max(0, self._booked - self.blocks.num_granted)
        return (self.blocks.num_untouched + not_yet_given) * self._cache.block_bytes

    @property
    def awaits_more(self) -> bool:
        """Whether the last wish was refused and somebody is making room for it, who will wake the owner thread."""
        return self._awaits

    def use(self) -> CacheUse:
        """Who has how much of it."""
        granted, free, prefix = self.blocks.num_granted, self.blocks.num_free, self.blocks.num_cached
        size = self._cache.block_bytes
        return CacheUse(granted * size, (granted - free) * size, prefix * size)

    def give_back(self) -> None:
        """Give back what no sequence uses: the content of free blocks, and their memory."""
        if self._cache.can_discard:
            self._cache.discard(self.blocks.give_back(self._promised))
            self._booked = self.blocks.num_granted

    def close(self) -> None:
        """Let go of the blocks, so that whoever still knows those keeps neither the memory nor the promise of it."""
        self.blocks.stop_asking()

    def _more(self, missing: int) -> int:
        """Blocks that may be used from now on: a slab if possible, else just those that are missing."""
        slab = max(missing, _SLAB_TOKENS // self._cache.block_size)
        slab = min(slab, self.blocks.num_blocks - self.blocks.num_granted)
        got = self._granted(slab) or self._granted(missing)
        self._awaits = not got and self._budget is not None and self._budget.lacks(slab * self._cache.block_bytes)
        return got

    def _granted(self, count: int) -> int:
        """`count`, booked until the block manager has them, or 0."""
        if self._budget is None or not count:
            return 0

        def take() -> None:
            self._booked = self.blocks.num_granted + count

        return count if self._budget.grant(count * self._cache.block_bytes, take) else 0
