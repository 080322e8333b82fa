"""Makes room for loads: measures, lets the arbiter decide, unloads, waits."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from application.device_arbiter import DeviceArbiter, Evict, GiveUp, Load, NeverFits, Suspend, Tenant, Wait, Wish
from application.leavers import Cleared
from application.ports import Clock
from application.residents import ResidentState
from application.slot import Slot
from domain.errors import InsufficientMemory, Overloaded, RequestCancelled
from domain.eviction import Holding, victims_for
from domain.memory import MemoryNeed
from domain.model import LoadOptions, Task
from domain.repositories import ModelRepository

# What other programs take and give back tells us nothing, so the room is measured again after so many seconds.
_LOOK_AGAIN = 1.0
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Look:
    """How many bytes of a device are taken, and by which models; None while one comes or goes."""

    taken: int
    others: tuple[int, ...] | None

    def taken_since(self, before: "Look") -> int | None:
        """What one load took between two looks; None if that cannot be told from what others took and gave back."""
        is_sure = self.others is not None and self.others == before.others
        return max(0, self.taken - before.taken) if is_sure else None


class StartUnload(Protocol):
    """Begins an unload and gives its task."""

    def __call__(self, slot: Slot, reason: str, *, park: bool) -> "asyncio.Task[int | None]":
        """With `park` the weights may stay near."""
        ...


class StartSuspension(Protocol):
    """Begins to suspend a model that is in use and gives its task."""

    def __call__(self, slot: Slot, *, park: bool) -> "asyncio.Task[int | None]":
        """With `park` the weights may stay near. How many bytes came free is the result; None if the model works on."""
        ...


class Room:
    """Whoever wants to load comes in here first; on each device one at a time, in the order in which they came.

    `slots` are those of all models; `start_unload` begins an unload, `start_suspension` a suspension: both give tasks.
    """

    def __init__(
        self,
        repository: ModelRepository,
        clock: Clock,
        arbiter: DeviceArbiter,
        slots: Callable[[], Sequence[Slot]],
        start_unload: "StartUnload",
        start_suspension: "StartSuspension",
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._arbiter = arbiter
        self._slots = slots
        self._start_unload = start_unload
        self._start_suspension = start_suspension
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()
        self._reclaimed_at: dict[str, float] = {}

    def changed(self) -> None:
        """Something came free, or somebody has left: who waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def make(self, slot: Slot, need: MemoryNeed) -> None:
        """Return when the load of `slot` may be called, which must be done before anything is awaited.

        Its `cleared` tells who had to leave, also when this fails. Raises Overloaded when busy models hold the memory
        for too long, InsufficientMemory when the model can never fit, RequestCancelled when nobody wants it any more.
        """
        async with self._turns[need.device]:
            began = self._clock.monotonic()
            reclaimed = False
            held_back: Sequence[Slot] = ()
            try:
                if slot.comes_back:
                    await self._wait_for_leaving(need.device)
                while True:
                    _check_wanted(slot)
                    waited = self._clock.monotonic() - began
                    wish = Wish(slot.spec.task, need.total, waited, returns=slot.suspended is not None)
                    decision = self._arbiter.decide(
                        wish, self._repository.budget(need.device), self._tenants(slot, need.device)
                    )
                    if not isinstance(decision, Load) and not reclaimed:
                        # Caches and garbage are cheaper to lose than a model.
                        reclaimed = True
                        await self._repository.reclaim(need.device)
                        continue
                    if not isinstance(decision, Load) and not slot.users:
                        raise Overloaded(f"'{slot.spec.id}' stays away: others have its place by now")
                    match decision:
                        case Load():
                            return
                        case Evict(model_ids):
                            await self._evict(model_ids, slot.cleared, park=need.is_on_gpu)
                            reclaimed = False
                        case Wait(model_ids):
                            _let_in(held_back)
                            held_back = self._hold_back(model_ids)
                            await self._wait()
                        case Suspend(model_ids):
                            await self._suspend(model_ids, slot, park=need.is_on_gpu)
                            reclaimed = False
                        case GiveUp(blockers):
                            raise self._held_by(slot, blockers)
                        case NeverFits(pinned):
                            raise self.too_big(slot, need, pinned)
            finally:
                _let_in(held_back)

    def too_big(self, slot: Slot, need: MemoryNeed, pinned: Sequence[str]) -> InsufficientMemory:
        """The refusal of a model that does not fit, with what would help."""
        held = sum(_bytes_of(other) for other in self._on(need.device) if other is not slot and other.pinned)
        available = max(0, self._repository.budget(need.device).ceiling - held)
        return InsufficientMemory(
            f"'{slot.spec.id}' needs about {need.total / _GIB:.1f} GiB on {need.device}, where at most "
            f"{available / _GIB:.1f} GiB can be had: {_what_would_help(slot, need, pinned)}",
            needed_bytes=need.total,
            available_bytes=available,
        )

    def too_little(self, slot: Slot, need: MemoryNeed) -> InsufficientMemory | Overloaded:
        """The refusal of a model that ran out of memory twice although there had been room for it each time."""
        others = [other for other in self._on(need.device) if other is not slot]
        busy = [other.spec.id for other in others if other.users or other.is_coming()]
        if busy and self._shortage(need.device, need.total) > 0:
            # They took it before the load could: it is not the model that is too large.
            return self._held_by(slot, busy)
        wishes = _what_would_help(slot, need, [other.spec.id for other in others if other.pinned])
        return InsufficientMemory(
            f"'{slot.spec.id}' ran out of memory twice while it was loaded, though about {need.total / _GIB:.1f} GiB "
            f"had seemed enough: {wishes}",
            needed_bytes=need.total,
            available_bytes=self._repository.budget(need.device).room,
        )

    def _held_by(self, slot: Slot, blockers: Sequence[str]) -> Overloaded:
        return Overloaded(
            f"'{slot.spec.id}' has to wait for memory that {_listed(blockers)} "
            f"{'is' if len(blockers) == 1 else 'are'} using: try again",
            retry_after_seconds=min(30.0, max(1.0, self._arbiter.max_hold)),
        )

    async def make_for_cache(self, device: str, size: int) -> None:
        """Let idle models leave for a cache that wants `size` bytes more; nobody who is busy is stopped or awaited."""
        await self._wait_for_leaving(device)
        if self._shortage(device, size) <= 0:
            return
        await self._reclaim_seldom(device)
        holdings = [_holding(slot) for slot in self._on(device) if slot.is_idle()]
        await self._evict(victims_for(max(0, self._shortage(device, size)), holdings) or (), Cleared())

    def _shortage(self, device: str, size: int) -> int:
        return size - self._repository.budget(device).room

    async def _reclaim_seldom(self, device: str) -> None:
        """Caches that stay short ask again and again, and giving back prefixes each time would cost all of them."""
        now = self._clock.monotonic()
        if now - self._reclaimed_at.get(device, -math.inf) >= _LOOK_AGAIN:
            self._reclaimed_at[device] = now
            await self._repository.reclaim(device)

    async def let_go(self, size: int) -> None:
        """Unload idle models that give back `size` bytes of the machine's own memory; all of them if that is more."""
        idle = [slot for slot in self._slots() if slot.is_idle() and slot.need.total and not slot.need.is_on_gpu]
        victims = victims_for(size, [_holding(slot) for slot in idle])
        await self._evict([slot.spec.id for slot in idle] if victims is None else victims, Cleared())

    async def clear(self, newcomer: Slot) -> None:
        """Unload everything idle on the device of `newcomer`, whose load ran out of memory although there was room."""
        device = newcomer.need.device
        idle = [slot.spec.id for slot in self._on(device) if slot.is_idle()]
        await self._evict(idle, newcomer.cleared)
        await self._wait_for_leaving(device)

    async def _wait_for_leaving(self, device: str) -> None:
        leaving = {slot.work for slot in self._on(device) if slot.is_leaving() and slot.work is not None}
        if leaving:
            await asyncio.wait(leaving)

    def look(self, slot: Slot) -> "Look":
        """What is taken on the device of `slot`, and by whom beside it."""
        budget = self._repository.budget(slot.need.device)
        others = [other for other in self._on(slot.need.device) if other is not slot and other.is_booked]
        is_still = all(other.state is ResidentState.LOADED for other in others)
        return Look(budget.held + budget.promised, tuple(map(id, others)) if is_still else None)

    def _on(self, device: str) -> Sequence[Slot]:
        return [slot for slot in self._slots() if slot.need.device == device]

    def _tenants(self, newcomer: Slot, device: str) -> Sequence[Tenant]:
        now = self._clock.monotonic()
        return [_tenant(slot, now) for slot in self._on(device) if slot is not newcomer and slot.is_booked]

    async def _evict(self, model_ids: Sequence[str], cleared: Cleared, *, park: bool = False) -> None:
        """Unload these, which `cleared` keeps. With `park` they will want to come back."""
        tasks = []
        for slot in [slot for slot in self._slots() if slot.spec.id in model_ids]:
            cleared.add(slot.as_leaver())
            tasks.append(self._start_unload(slot, "evicted", park=park))
        if tasks:
            await asyncio.wait(tasks)
        freed = [task.result() or 0 for task in tasks if not task.cancelled() and task.exception() is None]
        cleared.bytes_freed += sum(freed)

    async def _suspend(self, model_ids: Sequence[str], newcomer: Slot, *, park: bool) -> None:
        """Suspend these, which `newcomer` takes the place of. Raises Overloaded if one cannot be and it may give up."""
        slots = [slot for slot in self._slots() if slot.spec.id in model_ids]
        freed = await asyncio.gather(*(asyncio.shield(self._start_suspension(slot, park=park)) for slot in slots))
        for slot, size in zip(slots, freed, strict=True):
            if size is not None:
                newcomer.cleared.suspend(slot.spec)
                newcomer.cleared.bytes_freed += size
        stuck = [slot.spec.id for slot, size in zip(slots, freed, strict=True) if size is None]
        if stuck and newcomer.suspended is None:
            raise self._held_by(newcomer, stuck)

    def _hold_back(self, model_ids: Sequence[str]) -> Sequence[Slot]:
        slots = [slot for slot in self._slots() if slot.spec.id in model_ids]
        for slot in slots:
            slot.open.clear()
        return slots

    async def _wait(self) -> None:
        with_news = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({with_news}, timeout=min(_LOOK_AGAIN, self._arbiter.max_hold))
        finally:
            with_news.cancel()


def _check_wanted(slot: Slot) -> None:
    if not slot.is_wanted():
        raise RequestCancelled(f"nobody waits for '{slot.spec.id}' any more")


def _could_be_narrower(options: LoadOptions, need: MemoryNeed) -> bool:
    """Whether the caller has refused int8, which CPUs compute in; left to itself the machine takes it where it can."""
    return options.quantization == "none" and not need.is_on_gpu


def _what_would_help(slot: Slot, need: MemoryNeed, pinned: Sequence[str]) -> str:
    wishes = ["choose a smaller model"]
    if _could_be_narrower(slot.options, need):
        wishes.append("load it with quantization int8")
    if slot.options.num_ctx:
        wishes.append("ask for a smaller num_ctx")
    if pinned:
        wishes.append(f"unload {_listed(pinned)}")
    return ", or ".join(wishes)


def _let_in(slots: Sequence[Slot]) -> None:
    for slot in slots:
        slot.open.set()


def _bytes_of(slot: Slot) -> int:
    """What comes back when the model leaves: less than its weights is seen only where it moved into what lay about."""
    return slot.need.total if slot.bytes_taken is None else max(slot.bytes_taken, slot.need.weights)


def _holding(slot: Slot) -> Holding:
    in_use = slot.users > 0 or slot.is_coming()
    return Holding(slot.spec.id, _bytes_of(slot), slot.keep_alive, slot.last_used_at, in_use, slot.pinned)


def _tenant(slot: Slot, now: float) -> Tenant:
    is_there = slot.state is ResidentState.LOADED
    return Tenant(
        slot.spec.task,
        _holding(slot),
        # One that is being suspended has its weights still.
        leaving=slot.state is ResidentState.UNLOADING or (slot.state is ResidentState.SUSPENDED and not slot.suspended),
        held=now - slot.held_since if is_there else -math.inf,
        can_pause=slot.spec.task in (Task.TEXT, Task.SPEECH),
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
