"""How much of the KV cache may be used: what was promised, more while there is room, less when others need it."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from models import memory
from models.text.block_manager import BlockManager
from models.text.kv_cache import KVCache

log = logging.getLogger(__name__)

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

    `promised_tokens` can always be had; what lies above comes and goes. Where the cache is no address space it is
    copied to grow and to shrink: granted blocks take memory at once, and are the first ones at any time.
    """

    def __init__(
        self,
        cache: KVCache,
        promised_tokens: int,
        wanted_tokens: int,
        budget: CacheBudget | None,
        *,
        copies_parts: bool = False,
    ) -> None:
        """`wanted_tokens` are granted at once if there is room and that takes no memory yet.

        With `copies_parts`, texts that are alike as far as the middle of a block share that much.
        Without a budget all of the cache is granted. Raises RuntimeError where there is no memory for what is promised.
        """
        self._cache = cache
        self._budget = budget
        size = cache.block_size
        promised = None if self._budget is None else -(-promised_tokens // size)
        copy = cache.copy_block if copies_parts else None
        self.blocks = BlockManager(cache.tokens // size, size, granted=promised, ask=self._more, copy=copy)
        self._promised = self._booked = self.blocks.num_granted
        self._awaits = self._is_full = False
        cache.resize(self.blocks.num_granted)
        if self._budget is not None:
            self._budget.watch(self)
        if self._budget is not None and cache.can_discard:
            # What is wanted beyond the promise costs nobody a model.
            wanted = min(-(-wanted_tokens // size), self.blocks.num_blocks) - self._promised
            self.blocks.grant(self._granted(max(0, wanted)))

    @property
    def untouched_bytes(self) -> int:
        """What may still be touched without asking; read from any thread, never less than the truth."""
        not_yet_given = max(0, self._booked - self.blocks.num_granted)
        untouched = self.blocks.num_untouched if self._cache.can_discard else 0
        return (untouched + not_yet_given) * self._cache.block_bytes

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
        idle = self.blocks.give_back(self._promised)
        if not self._cache.can_discard:
            # Only the end can be cut off: what lies before a block in use stays.
            self.blocks.grant(self.blocks.num_gaps)
        self._booked = self.blocks.num_granted
        self._cache.discard(idle)
        self._resize(self.blocks.num_granted)

    def close(self) -> None:
        """Let go of the blocks, so that whoever still knows those keeps neither the memory nor the promise of it."""
        self.blocks.stop_asking()

    def _more(self, missing: int) -> int:
        """Blocks that may be used from now on: a slab if possible, else just those that are missing."""
        left = self.blocks.num_blocks - self.blocks.num_granted
        slab = min(left, max(missing, _SLAB_TOKENS // self._cache.block_size))
        # Where all of it is copied each time, it grows by half, so that this happens seldom.
        half = slab if self._cache.can_discard else min(left, max(slab, self.blocks.num_granted // 2))
        self._is_full = False
        got = next(filter(None, map(self._granted, sorted({half, slab, missing}, reverse=True))), 0)
        # Where the budget knew of room that was not there, nobody could make any, and would have us try for ever.
        is_short = not got and not self._is_full
        self._awaits = is_short and self._budget is not None and self._budget.lacks(self._bytes_for(slab))
        return got

    def _granted(self, count: int) -> int:
        """`count`, with memory for them, booked until the block manager has them; or 0."""
        if self._budget is None or not count:
            return 0

        def take() -> None:
            self._booked = self.blocks.num_granted + count

        if not self._budget.grant(self._bytes_for(count), take):
            return 0
        if self._resize(self.blocks.num_granted + count):
            return count
        self._booked, self._is_full = self.blocks.num_granted, True
        return 0

    def _bytes_for(self, count: int) -> int:
        """What `count` more blocks take, on the way included."""
        wanted = self.blocks.num_granted + count
        return count * self._cache.block_bytes + self._cache.bytes_on_the_way(wanted)

    def _resize(self, held: int) -> bool:
        """Whether there was room for it; if not, the cache is no smaller than it was or than it should be."""
        try:
            self._cache.resize(held)
        except RuntimeError as error:
            if not memory.ran_out(error):
                raise
            reason = str(error).partition("\n")[0]
            log.warning("the cache of %d blocks cannot be resized to %d: %s", self._cache.held, held, reason)
            return False
        return True
