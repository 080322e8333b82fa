"""The models in memory, one slot each, and the work that brings them in and out.

State changes on the event loop between two awaits, so it needs no lock; slow work (load, unload) runs in
tasks that belong to the slots, so a caller that leaves takes nothing with it.
"""

import asyncio
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from application.events import ModelLoaded, ModelLoadRefused, ModelUnloaded, Publish
from application.ports import Clock
from application.residents import Resident, ResidentState
from domain.errors import IngleError, InsufficientMemory, ModelLoadFailed, RequestCancelled
from domain.model import LoadOptions, ModelSpec
from domain.repositories import LoadedModel, LoadProgress, ModelRepository, OnLoadProgress


@dataclass(slots=True, eq=False)
class Slot:
    """A model's place in the pool, changed only by the pool and only on the event loop.

    `users` counts leases and those who wait for the load to get one, so a model cannot expire between its
    load and its first use; `idle` is set while there are none. `settled` is set when the waiters for the load
    may go on: to their lease, or to `failure` if there is one (a forced unload sets it before the load ends).
    `work` is the load, then the unload; once the state is UNLOADING it is not replaced any more.
    """

    spec: ModelSpec
    options: LoadOptions
    keep_alive: float
    state: ResidentState = ResidentState.LOADING
    loaded: LoadedModel | None = None
    work: "asyncio.Task[int | None] | None" = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    failure: IngleError | None = None
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    pinned: bool = False
    timer: asyncio.TimerHandle | None = None
    expires_at: float | None = None
    loaded_at: float = 0.0
    last_used_at: float = 0.0
    listeners: list[OnLoadProgress] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.idle.set()

    def enter(self) -> None:
        """One more user."""
        self.users += 1
        self.idle.clear()
        self.disarm()

    def leave(self, now: float) -> None:
        """One user fewer, at `now` (seconds since the epoch)."""
        self.users -= 1
        self.last_used_at = now
        if self.users == 0:
            self.idle.set()

    def settle(self, failure: IngleError | None = None) -> None:
        """Let the waiters for the load go on; the first failure stays."""
        self.failure = self.failure or failure
        self.settled.set()

    def is_idle(self) -> bool:
        """In memory, lent to nobody, and free to go."""
        return self.state is ResidentState.LOADED and self.users == 0 and not self.pinned

    def is_leaving(self) -> bool:
        """On its way out of memory with nobody holding it back."""
        return self.state is ResidentState.UNLOADING and self.users == 0 and self.loaded is not None

    def disarm(self) -> None:
        """Stop the expiry timer."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.expires_at = None, None

    def arm(self, now: float, expire: Callable[["Slot"], None]) -> None:
        """Start the expiry timer: the model is idle from `now` (seconds since the epoch)."""
        self.disarm()
        if not self.pinned and math.isfinite(self.keep_alive):
            self.expires_at = now + self.keep_alive
            self.timer = asyncio.get_running_loop().call_later(self.keep_alive, expire, self)

    def view(self) -> Resident:
        """The slot as others may see it."""
        return Resident(
            spec=self.spec,
            model=self.loaded.info if self.loaded else None,
            state=self.state,
            in_flight=self.users,
            pinned=self.pinned,
            loaded_at=self.loaded_at,
            last_used_at=self.last_used_at,
            expires_at=self.expires_at,
        )


class Slots:
    """Brings models in and out; whom they are lent to is the pool's business.

    * One slot for each model, from the start of its load to the end of its unload.
    * A load that runs out of memory unloads what is idle and tries once more.
    * An unload begins when the last user has gone.
    """

    def __init__(self, repository: ModelRepository, clock: Clock, publish: Publish, keep_alive: float) -> None:
        self._repository = repository
        self._clock = clock
        self._publish = publish
        self._keep_alive = keep_alive
        self._slots: dict[str, Slot] = {}
        self.failures: dict[str, IngleError] = {}

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

    def _expire(self, slot: Slot) -> None:
        if slot.is_idle():
            self.start_unload(slot, "expired")

    # -- in -----------------------------------------------------------------------------------------

    def start_load(self, spec: ModelSpec, options: LoadOptions) -> Slot:
        """A slot for a model that has none, with its load under way."""
        slot = Slot(spec, options, self._keep_alive)
        self._slots[spec.id] = slot
        slot.work = asyncio.create_task(self._load(slot), name=f"load {spec.id}")
        return slot

    async def _load(self, slot: Slot) -> None:
        loop = asyncio.get_running_loop()

        def tell(progress: LoadProgress) -> None:
            for listener in list(slot.listeners):
                listener(progress)

        def tell_from_any_thread(progress: LoadProgress) -> None:
            loop.call_soon_threadsafe(tell, progress)

        try:
            slot.loaded = await self._load_or_make_room(slot, tell_from_any_thread)
        except BaseException as error:
            self._refuse_load(slot, error)
            if not isinstance(error, Exception):
                raise
            return
        slot.loaded_at = slot.last_used_at = self._clock.now()
        self.failures.pop(slot.spec.id, None)
        slot.settle()
        if slot.state is ResidentState.LOADING:
            slot.state = ResidentState.LOADED
            if slot.users == 0:
                slot.arm(slot.loaded_at, self._expire)
        self._publish(ModelLoaded(slot.loaded.info))

    def _refuse_load(self, slot: Slot, error: BaseException) -> None:
        if isinstance(error, IngleError):
            failure = error
        else:
            failure = ModelLoadFailed(f"model '{slot.spec.id}' could not be loaded: {type(error).__name__}")
            failure.__cause__ = error
        forget_frames(failure)
        self.failures[slot.spec.id] = failure
        slot.settle(failure)
        if slot.state is ResidentState.LOADING:
            del self._slots[slot.spec.id]
        self._publish(ModelLoadRefused(slot.spec.id, failure.code, str(failure)))

    async def _load_or_make_room(self, slot: Slot, on_progress: OnLoadProgress) -> LoadedModel:
        with suppress(InsufficientMemory):
            return await self._repository.load(slot.spec, slot.options, on_progress)
        # The failed attempt's traceback, which kept its tensors alive, is gone here.
        for idle in self.idle():
            self.start_unload(idle, "evicted")
        leaving = {other.work for other in self if other.is_leaving() and other.work is not None}
        if leaving:
            await asyncio.wait(leaving)
        await self._repository.trim()
        return await self._repository.load(slot.spec, slot.options, on_progress)

    # -- out ----------------------------------------------------------------------------------------

    def start_unload(self, slot: Slot, reason: str, refusal: IngleError | None = None) -> "asyncio.Task[int | None]":
        """From now on nobody gets the model; those who have it or wait for it are sent away.

        The task's result is how many bytes came free, None if the load had failed. Whoever waits for the load
        gets `refusal` (RequestCancelled).
        """
        assert slot.work is not None and slot.state is not ResidentState.UNLOADING
        slot.disarm()
        slot.state = ResidentState.UNLOADING
        slot.settle(refusal or RequestCancelled(f"model '{slot.spec.id}' was unloaded by force"))
        slot.work = asyncio.create_task(self._unload(slot, slot.work, reason), name=f"unload {slot.spec.id}")
        return slot.work

    async def _unload(self, slot: Slot, load: "asyncio.Task[int | None]", reason: str) -> int | None:
        try:
            await asyncio.wait({load})
            if slot.loaded is None:
                return None
            if slot.users:
                slot.loaded.abort()
                await slot.idle.wait()
            freed = await self._repository.unload(slot.loaded)
        finally:
            slot.loaded = None
            del self._slots[slot.spec.id]
        self._publish(ModelUnloaded(slot.spec.id, reason, freed))
        return freed


def forget_frames(error: BaseException) -> None:
    """Drop the local variables of everything that `error` came through: they keep half-loaded weights alive."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
