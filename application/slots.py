"""The models in memory, one slot each, and the work that brings them in and out.

State changes on the event loop between two awaits, so it needs no lock; slow work (load, unload) runs in
tasks that belong to the slots, so a caller that leaves takes nothing with it.
"""

import asyncio
import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress

from application.device_arbiter import DeviceArbiter
from application.events import (
    ModelLoaded,
    ModelLoadRefused,
    ModelResumed,
    ModelSuspended,
    ModelUnloaded,
    Publish,
    SwapFailed,
)
from application.ports import Clock
from application.residents import ResidentState
from application.room import Room
from application.slot import Slot
from application.swap_record import SwapRecord
from domain.errors import IngleError, InsufficientMemory, ModelLoadFailed, Overloaded, RequestCancelled
from domain.model import LoadOptions, ModelSpec
from domain.repositories import LoadProgress, ModelRepository, OnLoadProgress

log = logging.getLogger(__name__)


class Slots:
    """Brings models in and out; whom they are lent to is the pool's business.

    * One slot for each model, from the start of its load to the end of its unload.
    * A load begins when there is room for it, which idle models leave to make.
    * One that runs out of memory all the same unloads what is idle and tries once more.
    * If it fails for good, those that left for it come back, as far as that takes nothing from others.
    * An unload begins when the last user has gone.
    * A model that is suspended at the end of its hold joins the line for its device at once; its users keep it.
    """

    def __init__(
        self, repository: ModelRepository, clock: Clock, publish: Publish, keep_alive: float, arbiter: DeviceArbiter
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._publish = publish
        self._keep_alive = keep_alive
        self._slots: dict[str, Slot] = {}
        self.room = Room(repository, clock, arbiter, lambda: list(self), self.start_unload, self.start_suspension)
        self.failures: dict[str, IngleError] = {}
        self.swaps = SwapRecord(clock, publish)
        self._is_ending = False

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
        if slot.users == 0:
            if slot.state is ResidentState.LOADED:
                slot.arm(slot.last_used_at, self._expire)
            elif slot.is_in_line():
                self.start_unload(slot, "evicted")
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
        self.stays_away(spec.id)
        slot.work = asyncio.create_task(self._load(slot), name=f"load {spec.id}")
        return slot

    def stays_away(self, model_id: str | None = None) -> None:
        """The model (None: every model) is not brought back if the load that it had to leave for fails."""
        for slot in self:
            for leaver in list(slot.cleared.leavers):
                if model_id is None or leaver.spec.id == model_id:
                    slot.cleared.forget(leaver.spec.id)

    def end(self) -> None:
        """From now on nobody is brought back."""
        self._is_ending = True
        for slot in self:
            slot.comes_back = False
        self.room.changed()

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
            await self._load_with_room(slot, tell_from_any_thread)
            self._note_where(slot)
        except asyncio.CancelledError:
            self._refuse_load(slot, RequestCancelled(f"nobody waits for '{slot.spec.id}' any more"))
            if slot.state is ResidentState.UNLOADING:
                self._bring_back(slot)
            raise
        except Exception as error:
            self._refuse_load(slot, error)
            self._bring_back(slot)
            return
        finally:
            self.room.changed()
        slot.loaded_at = slot.last_used_at = self._clock.now()
        self._settle(slot)
        assert slot.loaded is not None
        if slot.suspended is None:
            self._publish(ModelLoaded(slot.loaded.info))
        else:
            slot.suspended = None
            self._publish(ModelResumed(slot.spec.id, slot.users, self._clock.monotonic() - began))
        self.swaps.tell(slot, self._clock.monotonic() - began)

    def _settle(self, slot: Slot) -> None:
        """It is there: whoever waits for it may have it."""
        slot.held_since = self._clock.monotonic()
        self.failures.pop(slot.spec.id, None)
        slot.settle()
        if slot.is_coming():
            slot.state = ResidentState.LOADED
            if slot.users == 0:
                slot.arm(self._clock.now(), self._expire)

    def _note_where(self, slot: Slot) -> None:
        """A device that failed may have left the model to another one."""
        need = self._repository.need(slot.spec, slot.options)
        if need.device != slot.need.device:
            slot.need, slot.bytes_taken = need, None

    def _bring_back(self, failed: Slot) -> None:
        """Load those again that left for a load that failed. They take only room that is free, and put nobody out."""
        returning = [
            leaver for leaver in failed.cleared.returning(self._clock.now()) if self.get(leaver.spec.id) is None
        ]
        if not returning or self._is_ending:
            return
        self._publish(SwapFailed(failed.need.device, failed.spec.id, tuple(leaver.spec.id for leaver in returning)))
        for leaver in returning:
            try:
                slot = self.start_load(leaver.spec, leaver.options)
            except IngleError as error:
                self._publish(ModelLoadRefused(leaver.spec.id, error.code, str(error)))
                continue
            slot.comes_back, slot.pinned, slot.keep_alive = True, False, leaver.keep_alive

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
        elif slot.suspended is not None and slot.state is ResidentState.SUSPENDED:
            slot.suspended.fail(failure)
            slot.suspended = None
            self.start_unload(slot, "evicted")
        self._publish(ModelLoadRefused(slot.spec.id, failure.code, str(failure)))

    async def _load_with_room(self, slot: Slot, on_progress: OnLoadProgress) -> None:
        """Fill `slot`; its `cleared` tells who had to leave for it."""
        await self.room.make(slot, slot.need)
        with suppress(InsufficientMemory):
            await self._load_once(slot, on_progress)
            return
        # The failed attempt's traceback, which kept its tensors alive, is gone here.
        await self.room.clear(slot)
        await self._repository.trim()
        # Others may have taken what was free a moment ago: they are waited for as before.
        await self.room.make(slot, slot.need)
        with suppress(InsufficientMemory):
            await self._load_once(slot, on_progress)
            return
        raise self.room.too_little(slot, slot.need)

    async def _load_once(self, slot: Slot, on_progress: OnLoadProgress) -> None:
        slot.is_booked = True
        before = self.room.look(slot)
        try:
            if slot.suspended is None:
                slot.loaded = await self._repository.load(slot.spec, slot.options, on_progress)
            else:
                await slot.suspended.resume(slot.options, on_progress)
        except BaseException:
            slot.is_booked = False
            raise
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
        if slot.is_in_line():
            slot.work.cancel()
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

    def start_suspension(self, slot: Slot, *, park: bool) -> "asyncio.Task[int | None]":
        """From now on a model that is in use waits for its turn again, with all its users.

        With `park` its weights may stay near. The task's result is how many bytes came free; None if that could not be
        done, and the model works on.
        """
        assert slot.state is ResidentState.LOADED
        slot.disarm()
        slot.pause()
        suspension = slot.work = asyncio.create_task(self._suspend(slot, park), name=f"suspend {slot.spec.id}")
        return suspension

    async def _suspend(self, slot: Slot, park: bool) -> int | None:
        assert slot.loaded is not None
        try:
            suspended = await self._repository.suspend(slot.loaded, park=park)
        except Exception:
            log.exception("'%s' could not be suspended, and works on", slot.spec.id)
            self._settle(slot)
            self.room.changed()
            return None
        slot.is_booked, slot.bytes_taken = False, None
        self._publish(ModelSuspended(slot.spec.id, slot.users, suspended.bytes_freed))
        if slot.state is ResidentState.SUSPENDED:
            slot.suspended = suspended
            slot.work = asyncio.create_task(self._load(slot), name=f"resume {slot.spec.id}")
            if slot.users == 0:
                self.start_unload(slot, "evicted")
        self.room.changed()
        return suspended.bytes_freed


def forget_frames(error: BaseException) -> None:
    """Drop the local variables of everything that `error` came through: they keep half-loaded weights alive."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
