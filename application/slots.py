"""The models in memory, one slot each, and the work that brings them in and out.

State changes on the event loop between two awaits, so it needs no lock; slow work (load, unload) runs in
tasks that belong to the slots, so a caller that leaves takes nothing with it.
"""

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import suppress

from application.device_arbiter import DeviceArbiter, group_of
from application.device_standing import Swaps
from application.events import DeviceSwapped, ModelLoaded, ModelLoadRefused, ModelUnloaded, Publish
from application.ports import Clock
from application.residents import ResidentState
from application.room import Cleared, Room
from application.slot import Slot
from domain.errors import IngleError, InsufficientMemory, ModelLoadFailed, Overloaded, RequestCancelled
from domain.model import LoadOptions, ModelSpec, Task
from domain.repositories import LoadProgress, ModelRepository, OnLoadProgress


class Slots:
    """Brings models in and out; whom they are lent to is the pool's business.

    * One slot for each model, from the start of its load to the end of its unload.
    * A load begins when there is room for it, which idle models leave to make.
    * One that runs out of memory all the same unloads what is idle and tries once more.
    * An unload begins when the last user has gone.
    """

    def __init__(
        self, repository: ModelRepository, clock: Clock, publish: Publish, keep_alive: float, arbiter: DeviceArbiter
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._publish = publish
        self._keep_alive = keep_alive
        self._slots: dict[str, Slot] = {}
        self.room = Room(repository, clock, arbiter, lambda: list(self), self.start_unload)
        self.failures: dict[str, IngleError] = {}
        self.last_swap: DeviceSwapped | None = None
        self.swaps: dict[str, Swaps] = {}
        self._tasks: dict[str, Task] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._slots.values()))

    def get(self, model_id: str) -> Slot | None:
        """The slot of a model that is in memory or on its way."""
        return self._slots.get(model_id)

    def idle(self) -> list[Slot]:
        """The models that may go, the least recently used one first."""
        return sorted(filter(Slot.is_idle, self), key=lambda slot: slot.last_used_at)

    def release(self, slot: Slot) -> None:
        """One user fewer; the last one starts the expiry timer."""
        slot.leave(self._clock.now())
        if slot.users == 0 and slot.state is ResidentState.LOADED:
            slot.arm(slot.last_used_at, self._expire)
        if slot.users == 0:
            self.room.changed()

    def _expire(self, slot: Slot) -> None:
        if slot.is_idle():
            self.start_unload(slot, "expired")

    # -- in -----------------------------------------------------------------------------------------

    def start_load(self, spec: ModelSpec, options: LoadOptions) -> Slot:
        """A slot for a model that has none, with its load under way.

        Raises InvalidRequest and DeviceNotAvailable for options that the model cannot have here.
        """
        slot = Slot(spec, options, self._repository.need(spec, options), self.keep_alive_of(spec))
        slot.pinned = spec.residence.pinned
        self._slots[spec.id] = slot
        self._tasks[spec.id] = spec.task
        slot.work = asyncio.create_task(self._load(slot), name=f"load {spec.id}")
        return slot

    def keep_alive_of(self, spec: ModelSpec) -> float:
        """How long the model stays where no caller says."""
        own = spec.residence.keep_alive
        return self._keep_alive if own is None else own

    async def _load(self, slot: Slot) -> None:
        loop = asyncio.get_running_loop()

        def tell(progress: LoadProgress) -> None:
            for listener in list(slot.listeners):
                listener(progress)

        def tell_from_any_thread(progress: LoadProgress) -> None:
            loop.call_soon_threadsafe(tell, progress)

        began = self._clock.monotonic()
        try:
            cleared = await self._load_with_room(slot, tell_from_any_thread)
            self._note_where(slot)
        except BaseException as error:
            self._refuse_load(slot, error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self.room.changed()
        slot.loaded_at = slot.last_used_at = self._clock.now()
        self.failures.pop(slot.spec.id, None)
        slot.settle()
        if slot.state is ResidentState.LOADING:
            slot.state = ResidentState.LOADED
            if slot.users == 0:
                slot.arm(slot.loaded_at, self._expire)
        assert slot.loaded is not None
        self._publish(ModelLoaded(slot.loaded.info))
        if cleared.model_ids:
            self._tell_of_swap(slot, cleared, self._clock.monotonic() - began)

    def _note_where(self, slot: Slot) -> None:
        """A device that failed may have left the model to another one."""
        need = self._repository.need(slot.spec, slot.options)
        if need.device != slot.need.device:
            slot.need, slot.bytes_taken = need, None

    def _tell_of_swap(self, slot: Slot, cleared: Cleared, seconds: float) -> None:
        came = group_of(slot.spec.task)
        left = {group_of(self._tasks[model_id]) for model_id in cleared.model_ids}
        swap = DeviceSwapped(
            slot.need.device,
            cleared.model_ids,
            slot.spec.id,
            seconds,
            cleared.bytes_freed,
            at=self._clock.now(),
            left=next(iter(left - {came}), came),
            came=came,
        )
        past = self.swaps.get(swap.device)
        self.swaps[swap.device] = Swaps(1 if past is None else past.total + 1, swap)
        self.last_swap = swap
        self._publish(swap)

    def _refuse_load(self, slot: Slot, error: BaseException) -> None:
        if isinstance(error, IngleError):
            failure = error
        else:
            failure = ModelLoadFailed(f"model '{slot.spec.id}' could not be loaded: {type(error).__name__}")
            failure.__cause__ = error
        forget_frames(failure)
        if not isinstance(failure, Overloaded | RequestCancelled):
            # Those say nothing about the model.
            self.failures[slot.spec.id] = failure
        slot.settle(failure)
        if slot.state is ResidentState.LOADING:
            del self._slots[slot.spec.id]
        self._publish(ModelLoadRefused(slot.spec.id, failure.code, str(failure)))

    async def _load_with_room(self, slot: Slot, on_progress: OnLoadProgress) -> Cleared:
        """Fill `slot`; returns who had to leave for it."""
        cleared = await self.room.make(slot, slot.need)
        with suppress(InsufficientMemory):
            await self._load_once(slot, on_progress)
            return cleared
        # The failed attempt's traceback, which kept its tensors alive, is gone here.
        await self.room.clear(slot.need.device)
        await self._repository.trim()
        # Others may have taken what was free a moment ago: they are waited for as before.
        cleared = cleared.and_then(await self.room.make(slot, slot.need))
        with suppress(InsufficientMemory):
            await self._load_once(slot, on_progress)
            return cleared
        raise self.room.too_little(slot, slot.need)

    async def _load_once(self, slot: Slot, on_progress: OnLoadProgress) -> None:
        slot.is_booked = True
        before = self.room.look(slot)
        try:
            slot.loaded = await self._repository.load(slot.spec, slot.options, on_progress)
        finally:
            slot.is_booked = slot.loaded is not None
        slot.bytes_taken = self.room.look(slot).taken_since(before)

    # -- out ----------------------------------------------------------------------------------------

    def start_unload(
        self, slot: Slot, reason: str, refusal: IngleError | None = None, *, park: bool = False
    ) -> "asyncio.Task[int | None]":
        """From now on nobody gets the model; those who have it or wait for it are sent away.

        With `park` its weights may stay near, as it is likely to come back. The task's result is how many bytes came
        free, None if the load had failed. Whoever waits for the load
        gets `refusal` (RequestCancelled).
        """
        assert slot.work is not None and slot.state is not ResidentState.UNLOADING
        slot.disarm()
        slot.state = ResidentState.UNLOADING
        slot.settle(refusal or RequestCancelled(f"model '{slot.spec.id}' was unloaded by force"))
        slot.work = asyncio.create_task(self._unload(slot, slot.work, reason, park), name=f"unload {slot.spec.id}")
        self.room.changed()
        return slot.work

    async def _unload(self, slot: Slot, load: "asyncio.Task[int | None]", reason: str, park: bool) -> int | None:
        try:
            await asyncio.wait({load})
            if slot.loaded is None:
                return None
            if slot.users:
                slot.loaded.abort()
                await slot.idle.wait()
            freed = await self._repository.unload(slot.loaded, park=park)
        finally:
            slot.loaded = None
            del self._slots[slot.spec.id]
            self.room.changed()
        self._publish(ModelUnloaded(slot.spec.id, reason, freed))
        return freed


def forget_frames(error: BaseException) -> None:
    """Drop the local variables of everything that `error` came through: they keep half-loaded weights alive."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
