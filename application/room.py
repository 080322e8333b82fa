"""Makes room for loads: measures, lets the arbiter decide, unloads, waits."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from application.device_arbiter import DeviceArbiter, Evict, GiveUp, Load, NeverFits, Tenant, Wait, Wish
from application.ports import Clock
from application.residents import ResidentState
from application.slot import Slot
from domain.errors import InsufficientMemory, Overloaded, RequestCancelled
from domain.eviction import Holding
from domain.memory import MemoryNeed
from domain.model import LoadOptions
from domain.repositories import ModelRepository

# What other programs take and give back tells us nothing, so the room is measured again after so many seconds.
_LOOK_AGAIN = 1.0
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Cleared:
    """What had to leave for a load."""

    model_ids: tuple[str, ...] = ()
    bytes_freed: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """How many bytes of a device are taken, and by which models; None while one comes or goes."""

    taken: int
    others: tuple[int, ...] | None

    def taken_since(self, before: "Look") -> int | None:
        """What one load took between two looks; None if that cannot be told from what others took and gave back."""
        is_sure = self.others is not None and self.others == before.others
        return max(0, self.taken - before.taken) if is_sure else None


class Room:
    """Whoever wants to load comes in here first; on each device one at a time, in the order in which they came.

    `slots` are those of all models; `start_unload` begins an unload and gives its task.
    """

    def __init__(
        self,
        repository: ModelRepository,
        clock: Clock,
        arbiter: DeviceArbiter,
        slots: Callable[[], Sequence[Slot]],
        start_unload: Callable[[Slot, str], "asyncio.Task[int | None]"],
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._arbiter = arbiter
        self._slots = slots
        self._start_unload = start_unload
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something came free, or somebody has left: who waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def make(self, slot: Slot, need: MemoryNeed) -> Cleared:
        """Return when the load of `slot` may be called, which must be done before anything is awaited.

        Raises Overloaded when busy models hold the memory for too long, InsufficientMemory when the model can never
        fit, RequestCancelled when nobody wants it any more.
        """
        async with self._turns[need.device]:
            began = self._clock.monotonic()
            cleared = Cleared()
            reclaimed = False
            held_back: Sequence[Slot] = ()
            try:
                while True:
                    _check_wanted(slot)
                    wish = Wish(slot.spec.task, need.total, self._clock.monotonic() - began)
                    decision = self._arbiter.decide(
                        wish, self._repository.budget(need.device), self._tenants(slot, need.device)
                    )
                    if not isinstance(decision, Load) and not reclaimed:
                        # Caches and garbage are cheaper to lose than a model.
                        reclaimed = True
                        await self._repository.reclaim(need.device)
                        continue
                    match decision:
                        case Load():
                            return cleared
                        case Evict(model_ids):
                            cleared = await self._evict(model_ids, cleared)
                            reclaimed = False
                        case Wait(model_ids):
                            _let_in(held_back)
                            held_back = self._hold_back(model_ids)
                            await self._wait()
                        case GiveUp(blockers):
                            raise Overloaded(
                                f"'{slot.spec.id}' has to wait for memory that {_listed(blockers)} "
                                f"{'is' if len(blockers) == 1 else 'are'} using: try again",
                                retry_after_seconds=min(30.0, max(1.0, self._arbiter.max_hold)),
                            )
                        case NeverFits(pinned):
                            raise self.too_big(slot, need, pinned)
            finally:
                _let_in(held_back)

    def too_big(self, slot: Slot, need: MemoryNeed, pinned: Sequence[str]) -> InsufficientMemory:
        """The refusal of a model that does not fit, with what would help."""
        held = sum(_bytes_of(other) for other in self._on(need.device) if other is not slot and other.pinned)
        available = max(0, self._repository.budget(need.device).ceiling - held)
        wishes = ["choose a smaller model"]
        if _could_be_narrower(slot.options, need):
            wishes.append("load it with quantization int8")
        if slot.options.num_ctx:
            wishes.append("ask for a smaller num_ctx")
        if pinned:
            wishes.append(f"unload {_listed(pinned)}")
        return InsufficientMemory(
            f"'{slot.spec.id}' needs about {need.total / _GIB:.1f} GiB on {need.device}, where at most "
            f"{available / _GIB:.1f} GiB can be had: {', or '.join(wishes)}",
            needed_bytes=need.total,
            available_bytes=available,
        )

    async def clear(self, device: str) -> None:
        """Unload everything idle on a device: a load ran out of memory although there had been room."""
        idle = [slot.spec.id for slot in self._on(device) if slot.is_idle()]
        await self._evict(idle, Cleared())
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
        return [_tenant(slot) for slot in self._on(device) if slot is not newcomer and slot.is_booked]

    async def _evict(self, model_ids: Sequence[str], cleared: Cleared) -> Cleared:
        """Unload these; what they gave back is added to `cleared`."""
        tasks = [self._start_unload(slot, "evicted") for slot in self._slots() if slot.spec.id in model_ids]
        if tasks:
            await asyncio.wait(tasks)
        freed = sum(task.result() or 0 for task in tasks if not task.cancelled() and task.exception() is None)
        return Cleared((*cleared.model_ids, *model_ids), cleared.bytes_freed + freed)

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
    if slot.users == 0 or slot.state is ResidentState.UNLOADING:
        raise RequestCancelled(f"nobody waits for '{slot.spec.id}' any more")


def _could_be_narrower(options: LoadOptions, need: MemoryNeed) -> bool:
    """Whether the caller has refused int8, which CPUs compute in; left to itself the machine takes it where it can."""
    return options.quantization == "none" and not need.device.startswith("cuda")


def _let_in(slots: Sequence[Slot]) -> None:
    for slot in slots:
        slot.open.set()


def _bytes_of(slot: Slot) -> int:
    """What comes back when the model leaves: less than its weights is seen only where it moved into what lay about."""
    return slot.need.total if slot.bytes_taken is None else max(slot.bytes_taken, slot.need.weights)


def _tenant(slot: Slot) -> Tenant:
    in_use = slot.users > 0 or slot.state is ResidentState.LOADING
    holding = Holding(slot.spec.id, _bytes_of(slot), slot.keep_alive, slot.last_used_at, in_use, slot.pinned)
    return Tenant(slot.spec.task, holding, leaving=slot.state is ResidentState.UNLOADING)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
