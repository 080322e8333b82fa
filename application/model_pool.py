"""Which models are in memory. The pool lends them, and nothing else loads or unloads one.

State changes on the event loop between two awaits, so it needs no lock; slow work (load, unload, trim) runs
in tasks that belong to the pool, so a caller that leaves takes only its lease with it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, overload

from application.events import ModelLoaded, ModelLoadRefused, ModelUnloaded, Publish
from application.ports import Clock, SpeechModel, TextModel
from application.residents import Resident, ResidentState, Slot, Unloaded
from domain.errors import (
    IngleError,
    InsufficientMemory,
    ModelBusy,
    ModelLoadFailed,
    ModelLoading,
    ModelPinned,
    RequestCancelled,
    ServerDraining,
    UnsupportedCapability,
)
from domain.memory import MemoryFreed
from domain.model import LoadOptions, Model, ModelSpec, Task
from domain.repositories import LoadedModel, LoadProgress, ModelRepository, OnLoadProgress


class ModelPool:
    """Lends models by a `with` block; loads on demand; unloads after keep_alive.

    * Callers that want a model while it loads share that load; it is never loaded twice.
    * A lent model is never unloaded, except by `unload(force=True)`, which ends its work first.
    * A load that runs out of memory unloads what is idle and tries once more.
    """

    def __init__(
        self,
        repository: ModelRepository,
        clock: Clock,
        publish: Publish,
        *,
        keep_alive: float = 300.0,
        load_timeout: float = 300.0,
        default_options: LoadOptions | None = None,
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._publish = publish
        self._keep_alive = keep_alive
        self._load_timeout = load_timeout
        self._default_options = default_options or LoadOptions()
        self._slots: dict[str, Slot] = {}
        self._failures: dict[str, IngleError] = {}
        self._optimising: asyncio.Task[MemoryFreed] | None = None
        self._draining = False

    # -- looking ------------------------------------------------------------------------------------

    @property
    def repository(self) -> ModelRepository:
        """What is on disk."""
        return self._repository

    def residents(self) -> Sequence[Resident]:
        """Every model in memory or on its way, oldest first."""
        return [slot.view() for slot in self._slots.values()]

    def failure_of(self, model_id: str) -> IngleError | None:
        """Why the last load of a model failed, until one succeeds."""
        return self._failures.get(model_id)

    # -- lending ------------------------------------------------------------------------------------

    @overload
    def lend(
        self, name: str, task: Literal[Task.TEXT], *, keep_alive: float | None = None
    ) -> AbstractAsyncContextManager[TextModel]: ...

    @overload
    def lend(
        self, name: str, task: Literal[Task.SPEECH], *, keep_alive: float | None = None
    ) -> AbstractAsyncContextManager[SpeechModel]: ...

    def lend(self, name: str, task: Task, *, keep_alive: float | None = None) -> AbstractAsyncContextManager[Any]:
        """Lend the model that `name` means, loaded if need be; it stays in memory while the block runs.

        `keep_alive` (seconds, or FOREVER) replaces what earlier callers asked for. Raises ModelNotFound,
        UnsupportedCapability (a model for another task), ModelLoading (the load outlasts the load timeout),
        ServerDraining, and whatever the load raises.
        """
        return self._lend(name, task, keep_alive)

    @asynccontextmanager
    async def _lend(self, name: str, task: Task, keep_alive: float | None) -> AsyncGenerator[LoadedModel, None]:
        spec = self._repository.find(name)
        if spec.task is not task:
            raise UnsupportedCapability(f"model '{name}' is a {spec.task} model: it cannot do {task}", field="model")
        slot = await self._acquire(spec, None)
        if keep_alive is not None:
            slot.keep_alive = keep_alive
        assert slot.loaded is not None
        try:
            yield slot.loaded
        finally:
            self._release(slot)

    async def _acquire(
        self, spec: ModelSpec, options: LoadOptions | None, on_progress: OnLoadProgress | None = None
    ) -> Slot:
        """A loaded slot with one more user; the caller must `_release` it."""
        deadline = self._clock.monotonic() + self._load_timeout
        while True:
            if self._draining:
                raise ServerDraining()
            slot = self._slots.get(spec.id)
            if slot is None:
                slot = self._start_load(spec, options or self._default_options)
            if slot.state is ResidentState.UNLOADING:
                await self._wait(slot, deadline)
                continue
            slot.users += 1
            slot.disarm()
            if slot.state is ResidentState.LOADED:
                return slot
            if on_progress is not None:
                slot.listeners.append(on_progress)
            try:
                await self._wait(slot, deadline)
                if slot.failure is not None:
                    raise slot.failure
                if slot.revoked:
                    raise RequestCancelled("the model was unloaded by force while this request waited for it")
            except BaseException:
                self._release(slot)
                raise
            return slot

    async def _wait(self, slot: Slot, deadline: float) -> None:
        """Until the slot's load or unload is over; the work itself goes on if we are cancelled."""
        assert slot.work is not None
        timeout = max(0.0, deadline - self._clock.monotonic())
        done, _ = await asyncio.wait({slot.work}, timeout=timeout)
        if not done:
            raise ModelLoading(f"model '{slot.spec.id}' is still {slot.state}: ask again in a moment")

    def _release(self, slot: Slot) -> None:
        slot.users -= 1
        slot.last_used_at = self._clock.now()
        if slot.users == 0:
            slot.idle.set()
            if slot.state is ResidentState.LOADED:
                slot.arm(slot.last_used_at, self._expire)

    # -- loading ------------------------------------------------------------------------------------

    async def load(
        self,
        name: str,
        options: LoadOptions | None = None,
        *,
        keep_alive: float | None = None,
        pin: bool | None = None,
        on_progress: OnLoadProgress | None = None,
    ) -> tuple[Model, bool]:
        """Bring a model into memory as `options` say; the flag tells whether anything had to be done.

        A loaded model that does not satisfy `options` is loaded anew if nobody uses it, else ModelBusy.
        """
        spec = self._repository.find(name)
        wanted = options or LoadOptions()
        already = spec.id in self._slots and self._slots[spec.id].state is ResidentState.LOADED
        slot = await self._acquire(spec, self._with_defaults(wanted), on_progress)
        try:
            assert slot.loaded is not None
            if not slot.loaded.info.satisfies(wanted):
                if slot.users > 1:
                    raise ModelBusy(spec.id, slot.users - 1)
                await self._replace(slot)
                slot, previous = await self._acquire(spec, self._with_defaults(wanted), on_progress), slot
                already = False
                self._release(previous)
            slot.keep_alive = self._keep_alive if keep_alive is None else keep_alive
            if pin is not None:
                slot.pinned = pin
            assert slot.loaded is not None
            return slot.loaded.info, not already
        finally:
            self._release(slot)

    def _with_defaults(self, options: LoadOptions) -> LoadOptions:
        device = self._default_options.device if options.device == "auto" else options.device
        return LoadOptions(device, options.dtype, options.quantization, options.num_ctx)

    async def _replace(self, slot: Slot) -> None:
        """Unload a model whose only user is the caller, to load it otherwise."""
        work = self._start_unload(slot, "replaced")
        await asyncio.shield(work)

    def _start_load(self, spec: ModelSpec, options: LoadOptions) -> Slot:
        slot = Slot(spec, options, self._keep_alive)
        self._slots[spec.id] = slot
        slot.work = asyncio.create_task(self._load(slot), name=f"load {spec.id}")
        return slot

    async def _load(self, slot: Slot) -> int:
        loop = asyncio.get_running_loop()

        def tell(progress: LoadProgress) -> None:
            for listener in slot.listeners:
                listener(progress)

        def tell_from_any_thread(progress: LoadProgress) -> None:
            loop.call_soon_threadsafe(tell, progress)

        try:
            slot.loaded = await self._load_or_make_room(slot, tell_from_any_thread)
        except BaseException as error:
            slot.failure = error if isinstance(error, IngleError) else ModelLoadFailed(f"loading failed: {error!r}")
            self._failures[slot.spec.id] = slot.failure
            del self._slots[slot.spec.id]
            self._publish(ModelLoadRefused(slot.spec.id, slot.failure.code, str(slot.failure)))
            if not isinstance(error, Exception):
                raise
            return 0
        slot.state = ResidentState.LOADED
        slot.loaded_at = slot.last_used_at = self._clock.now()
        self._failures.pop(slot.spec.id, None)
        self._publish(ModelLoaded(slot.loaded.info))
        if slot.users == 0:
            slot.arm(slot.loaded_at, self._expire)
        return 0

    async def _load_or_make_room(self, slot: Slot, on_progress: OnLoadProgress) -> LoadedModel:
        try:
            return await self._repository.load(slot.spec, slot.options, on_progress)
        except InsufficientMemory:
            if not await self._unload_idle("evicted"):
                raise
        # Outside the except block: the failed attempt's traceback would keep its tensors alive.
        await self._repository.trim()
        return await self._repository.load(slot.spec, slot.options, on_progress)

    # -- unloading ----------------------------------------------------------------------------------

    async def unload(self, name: str, *, force: bool = False) -> Unloaded:
        """Take a model out of memory.

        Raises ModelBusy while it is lent and ModelPinned while it is pinned; `force` overrides both: the work
        in flight ends with RequestCancelled first.
        """
        spec = self._repository.find(name)
        slot = self._slots.get(spec.id)
        if slot is None:
            return Unloaded(spec.id, was_loaded=False, bytes_freed=0)
        if not force and slot.users:
            raise ModelBusy(spec.id, slot.users)
        if not force and slot.pinned:
            raise ModelPinned(f"model '{spec.id}' is pinned: unload it with force")
        if slot.state is ResidentState.LOADING:
            slot.revoked = force
            await self._wait(slot, self._clock.monotonic() + self._load_timeout)
        if slot.state is ResidentState.LOADED:
            if slot.users and slot.loaded is not None:
                slot.idle.clear()
                slot.loaded.abort()
                await slot.idle.wait()
            if slot.state is ResidentState.LOADED:
                self._start_unload(slot, "asked")
        freed = await asyncio.shield(slot.work) if slot.work is not None else 0
        return Unloaded(spec.id, was_loaded=True, bytes_freed=freed)

    async def unload_idle(self) -> Sequence[Unloaded]:
        """Unload every model that nobody uses and that is not pinned."""
        return await self._unload_idle("asked")

    async def _unload_idle(self, reason: str) -> Sequence[Unloaded]:
        by_last_use = sorted(filter(Slot.is_idle, self._slots.values()), key=lambda slot: slot.last_used_at)
        work = [(slot.spec.id, self._start_unload(slot, reason)) for slot in by_last_use]
        return [Unloaded(model_id, True, await asyncio.shield(task)) for model_id, task in work]

    def _expire(self, slot: Slot) -> None:
        if slot.is_idle():
            self._start_unload(slot, "expired")

    def _start_unload(self, slot: Slot, reason: str) -> "asyncio.Task[int]":
        slot.disarm()
        slot.state = ResidentState.UNLOADING
        slot.work = asyncio.create_task(self._unload(slot, reason), name=f"unload {slot.spec.id}")
        return slot.work

    async def _unload(self, slot: Slot, reason: str) -> int:
        assert slot.loaded is not None
        loaded, slot.loaded = slot.loaded, None
        try:
            freed = await self._repository.unload(loaded)
        finally:
            del self._slots[slot.spec.id]
        self._publish(ModelUnloaded(slot.spec.id, reason, freed))
        return freed

    # -- memory -------------------------------------------------------------------------------------

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
            actions += [f"unloaded {gone.model_id}" for gone in await self._unload_idle("asked")]
        actions += await self._repository.trim()
        while target_free_bytes is not None and self._repository.memory().available < target_free_bytes:
            idle = sorted(filter(Slot.is_idle, self._slots.values()), key=lambda slot: slot.last_used_at)
            if not idle:
                break
            await asyncio.shield(self._start_unload(idle[0], "asked"))
            actions += [f"unloaded {idle[0].spec.id}", *await self._repository.trim()]
        return MemoryFreed(before, self._repository.memory(), tuple(actions))

    # -- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Refuse new leases, end the work in flight, unload everything."""
        self._draining = True
        for slot in list(self._slots.values()):
            if slot.state is ResidentState.LOADING and slot.work is not None:
                await asyncio.wait({slot.work})
        for slot in list(self._slots.values()):
            if slot.state is ResidentState.LOADED:
                if slot.users and slot.loaded is not None:
                    slot.idle.clear()
                    slot.loaded.abort()
                    await slot.idle.wait()
                self._start_unload(slot, "shutdown")
        await asyncio.gather(*(slot.work for slot in self._slots.values() if slot.work is not None))
