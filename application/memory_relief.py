"""Gives memory back: when asked to, when the machine runs short of it, and when a cache has to grow."""

import asyncio
import logging
from collections.abc import Sequence

from application.ports import Clock
from application.room import Room
from application.shortages import Shortages
from application.slots import Slots
from domain.errors import Overloaded
from domain.memory import MemoryBounds, MemoryFreed, Pressure
from domain.repositories import ModelRepository

log = logging.getLogger(__name__)

# Requests come more often than memory changes, so a look at it serves for so many seconds.
_LOOK_LASTS = 0.25
_WATCH_EVERY = 1.0
# Between two rounds for caches that stay short: giving memory back takes time that others could compute in.
_ROUND = 0.1
_COME_BACK = 5.0


class MemoryRelief:
    """Idle models leave when memory is short; models in use, and pinned ones, never.

    `optimize` and `check` work by themselves, the rest while `watch` runs.
    """

    def __init__(
        self,
        repository: ModelRepository,
        clock: Clock,
        slots: Slots,
        room: Room,
        bounds: MemoryBounds,
        shortages: Shortages,
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._slots = slots
        self._room = room
        self._bounds = bounds
        self._shortages = shortages
        self._news = asyncio.Event()
        self._looked_at = float("-inf")
        self._refusal: str | None = None
        self._is_trimmed = False
        self._optimising: asyncio.Task[MemoryFreed] | None = None

    def check(self) -> None:
        """Raise Overloaded if so much of the machine's memory is in use that no work may begin."""
        if not self.has_memory():
            self._news.set()
            raise Overloaded(self._refusal, retry_after_seconds=_COME_BACK)

    def has_memory(self) -> bool:
        """Whether work may begin."""
        now = self._clock.monotonic()
        if now - self._looked_at >= _LOOK_LASTS:
            self._looked_at, self._refusal = now, self._look()
        return self._refusal is None

    def _look(self) -> str | None:
        usage = self._repository.memory()
        if self._bounds.pressure(usage) is not Pressure.FULL:
            return None
        return (
            f"{usage.used_share:.0%} of this machine's memory is in use, and above {self._bounds.full:.0%} "
            "(MAX_MEMORY_USAGE) no work is begun: try again"
        )

    async def optimize(self, *, aggressive: bool = False, target_free_bytes: int | None = None) -> MemoryFreed:
        """Give back memory that nobody needs; calls that come while one runs share its answer.

        `aggressive` unloads every idle unpinned model; `target_free_bytes` unloads idle ones, least recently
        used first, until the machine has that much free.
        """
        if self._optimising is None or self._optimising.done():
            self._optimising = asyncio.create_task(self._optimize(aggressive, target_free_bytes), name="optimize")
        return await asyncio.shield(self._optimising)

    async def _optimize(self, aggressive: bool, target_free_bytes: int | None) -> MemoryFreed:
        before = self._repository.memory()
        actions: list[str] = []
        if aggressive:
            self._slots.stays_away()
            work = [(slot.spec.id, self._slots.start_unload(slot, "asked")) for slot in self._slots.idle()]
            for model_id, task in work:
                await asyncio.shield(task)
                actions.append(f"unloaded {model_id}")
        actions += await self._repository.trim()
        while target_free_bytes is not None and self._repository.memory().available < target_free_bytes:
            idle = self._slots.idle()
            if not idle:
                break
            await asyncio.shield(self._slots.start_unload(idle[0], "asked"))
            actions += [f"unloaded {idle[0].spec.id}", *await self._repository.trim()]
        return MemoryFreed(before, self._repository.memory(), tuple(actions))

    def under_way(self) -> Sequence["asyncio.Task[MemoryFreed]"]:
        """The optimisation that runs now, if one does."""
        return [] if self._optimising is None else [self._optimising]

    async def watch(self) -> None:
        """Until it is cancelled: let idle models leave when the machine is short of memory, or a cache has to grow."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._news.set)

        with self._shortages.heard(wake):
            while True:
                await self._wait_for_news()
                self._news.clear()
                try:
                    await self._serve_caches()
                    await self._relieve()
                except Exception:  # whatever unloading one model met, the others are watched over still
                    log.exception("memory could not be given back")
                await asyncio.sleep(_ROUND)

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(_WATCH_EVERY):
                await self._news.wait()
        except TimeoutError:
            return

    async def _serve_caches(self) -> None:
        for shortage in self._shortages.take():
            try:
                await self._room.make_for_cache(shortage.device, shortage.bytes)
            finally:
                shortage.again()

    async def _relieve(self) -> None:
        """Garbage and caches go first, and only once while memory stays short; then as many idle models as it takes."""
        usage = self._repository.memory()
        if self._bounds.pressure(usage) is Pressure.NONE:
            self._is_trimmed = False
            return
        if not self._is_trimmed:
            self._is_trimmed = True
            await self._repository.trim()
            usage = self._repository.memory()
        if self._bounds.pressure(usage) is not Pressure.NONE:
            await self._room.let_go(self._bounds.excess(usage))
