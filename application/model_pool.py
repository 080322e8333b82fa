"""Which models are in memory. The pool lends them, and nothing else loads or unloads one.

How they get in and out is the business of `slots`, who waits for them that of `leases`, and what leaves when memory
is short that of `memory_relief`; here is what may be asked of all of them.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, overload

from application.device_arbiter import DeviceArbiter
from application.device_standing import DeviceStanding, standing_of
from application.events import DeviceSwapped, Publish
from application.in_flight import RequestsInFlight
from application.leases import Leases
from application.memory_relief import MemoryRelief
from application.ports import Clock, EmbeddingModel, SpeechModel, TextModel
from application.residents import Resident, ResidentState, Unloaded
from application.shortages import Shortages
from application.slots import Slots
from domain.errors import IngleError, ModelBusy, ModelPinned, ServerDraining, UnsupportedCapability
from domain.memory import MemoryBounds, MemoryFreed
from domain.model import LoadOptions, Model, ModelSpec, Task, WeightFormat
from domain.repositories import LoadedModel, ModelRepository, OnLoadProgress


class ModelPool:
    """Lends models by a `with` block; loads on demand; unloads after keep_alive.

    * Callers that want a model while it loads share that load; it is never loaded twice.
    * A lent model is never unloaded, except by `unload(force=True)`, which ends its work first.
    * A load begins when there is room for it. Idle models leave for it; busy ones are waited for, for a while.
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
        speech_options: LoadOptions | None = None,
        arbiter: DeviceArbiter | None = None,
        bounds: MemoryBounds | None = None,
        shortages: Shortages | None = None,
    ) -> None:
        """`default_options` complete those of callers and of models; `speech_options` do so for speech, if given.

        `bounds` say when the machine is short of memory; caches that cannot grow tell `shortages`.
        """
        self._repository = repository
        self._default_options = default_options or LoadOptions()
        self._speech_options = speech_options or self._default_options
        self._clock = clock
        self._arbiter = arbiter or DeviceArbiter()
        slots = self._slots = Slots(repository, clock, publish, keep_alive, self._arbiter)
        self._leases = Leases(repository, clock, slots, load_timeout)
        self._relief = MemoryRelief(
            repository, clock, slots, slots.room, bounds or MemoryBounds(), shortages or Shortages()
        )
        self.requests = RequestsInFlight(clock)

    # -- looking ------------------------------------------------------------------------------------

    @property
    def repository(self) -> ModelRepository:
        """What is on disk."""
        return self._repository

    def residents(self) -> Sequence[Resident]:
        """Every model in memory or on its way, oldest first."""
        return [slot.view() for slot in self._slots]

    @property
    def last_swap(self) -> DeviceSwapped | None:
        """When models last had to leave for another one."""
        return self._slots.swaps.last

    def standing_of(self, device: str) -> DeviceStanding:
        """Who holds a device, and who waits for it."""
        return standing_of(device, self.residents(), self._arbiter.sharing, self._slots.swaps.on, self._clock.now())

    @property
    def is_draining(self) -> bool:
        """Whether newcomers are refused because the end is near."""
        return self._leases.is_draining

    def failure_of(self, model_id: str) -> IngleError | None:
        """Why the last load of a model failed, until one succeeds."""
        return self._slots.failures.get(model_id)

    # -- lending ------------------------------------------------------------------------------------

    @overload
    def lend(
        self, name: str, task: Literal[Task.TEXT], *, keep_alive: float | None = None, request_id: str | None = None
    ) -> AbstractAsyncContextManager[TextModel]: ...

    @overload
    def lend(
        self, name: str, task: Literal[Task.SPEECH], *, keep_alive: float | None = None, request_id: str | None = None
    ) -> AbstractAsyncContextManager[SpeechModel]: ...

    @overload
    def lend(
        self,
        name: str,
        task: Literal[Task.EMBEDDING],
        *,
        keep_alive: float | None = None,
        request_id: str | None = None,
    ) -> AbstractAsyncContextManager[EmbeddingModel]: ...

    def lend(
        self, name: str, task: Task, *, keep_alive: float | None = None, request_id: str | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """Lend the model that `name` means, loaded if need be; it stays in memory while the block runs.

        `keep_alive` (seconds, or FOREVER) replaces what earlier callers asked for. With a `request_id` it counts as
        a request in flight. Raises ModelNotFound,
        UnsupportedCapability (a model for another task), Overloaded (the machine is short of memory),
        ModelLoading (the load outlasts the load timeout), ServerDraining, and whatever the load raises.
        """
        lent = self._lend(name, task, keep_alive)
        return lent if request_id is None else self._counted(lent, name, task, request_id)

    @asynccontextmanager
    async def _counted(
        self, lent: AbstractAsyncContextManager[LoadedModel], name: str, task: Task, request_id: str
    ) -> AsyncGenerator[LoadedModel, None]:
        with self.requests.entered(task, name, request_id) as work:
            async with lent as work.model:
                yield work.model

    @asynccontextmanager
    async def _lend(self, name: str, task: Task, keep_alive: float | None) -> AsyncGenerator[LoadedModel, None]:
        spec = self._repository.find(name)
        if spec.task is not task:
            raise UnsupportedCapability(f"model '{name}' is for {spec.task}: it cannot do {task}", field="model")
        if spec.format is not WeightFormat.REMOTE:
            self._relief.check()
        slot = await self._leases.acquire(spec, self._options_for(spec, LoadOptions()))
        if keep_alive is not None:
            slot.keep_alive = keep_alive
        assert slot.loaded is not None
        try:
            yield slot.loaded
        finally:
            self._slots.release(slot)

    def _options_for(self, spec: ModelSpec, wanted: LoadOptions) -> LoadOptions:
        """`wanted`; what it leaves open is as the operator wants this model, else as all models are."""
        defaults = self._speech_options if spec.task is Task.SPEECH else self._default_options
        return wanted.completed_by(spec.residence.options).completed_by(defaults)

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
        `pin` None leaves a pin as it is.
        """
        spec = self._repository.find(name)
        wanted = options or LoadOptions()
        exactly = self._options_for(spec, wanted)
        while True:
            resident = self._slots.get(spec.id)
            was_loaded = resident is not None and resident.state is ResidentState.LOADED
            slot = await self._leases.acquire(spec, exactly, on_progress)
            try:
                assert slot.loaded is not None
                info = slot.loaded.info
                # A repository may give less than was asked for (a shorter context): asking again changes nothing.
                if slot.options == exactly or info.satisfies(wanted):
                    slot.keep_alive = self._slots.keep_alive_of(spec) if keep_alive is None else keep_alive
                    slot.pinned = slot.pinned if pin is None else pin
                    return info, not was_loaded
                if slot.users > 1:
                    raise ModelBusy(spec.id, slot.users - 1)
                # What cannot be had is refused before the model that is there goes.
                self._repository.need(spec, exactly)
                pin = slot.pinned if pin is None else pin
            finally:
                self._slots.release(slot)
            self._slots.start_unload(slot, "replaced")
            await self._leases.wait_for_unload(slot)

    # -- unloading ----------------------------------------------------------------------------------

    async def unload(self, name: str, *, force: bool = False) -> Unloaded:
        """Take a model out of memory.

        Raises ModelBusy while it is lent or awaited and ModelPinned while it is pinned; `force` overrides
        both: the work in flight, and whoever waits for the load, end with RequestCancelled first.
        """
        spec = self._repository.find(name)
        self._slots.stays_away(spec.id)
        slot = self._slots.get(spec.id)
        if slot is None:
            return Unloaded(spec.id, was_loaded=False, bytes_freed=0)
        if slot.state is not ResidentState.UNLOADING:
            if slot.users and not force:
                raise ModelBusy(spec.id, slot.users)
            if slot.pinned and not force:
                raise ModelPinned(f"model '{spec.id}' is pinned: unload it with force")
            self._slots.start_unload(slot, "asked")
        await self._leases.wait_for_unload(slot)
        freed = slot.work.result() if slot.work is not None else None
        return Unloaded(spec.id, was_loaded=freed is not None, bytes_freed=freed or 0)

    async def unload_idle(self) -> Sequence[Unloaded]:
        """Unload every model that nobody uses and that is not pinned."""
        self._slots.stays_away()
        work = [(slot.spec.id, self._slots.start_unload(slot, "asked")) for slot in self._slots.idle()]
        unloaded = []
        for model_id, task in work:
            freed = await asyncio.shield(task)
            unloaded.append(Unloaded(model_id, was_loaded=True, bytes_freed=freed or 0))
        return unloaded

    @asynccontextmanager
    async def removing(self, name: str) -> AsyncGenerator[ModelSpec, None]:
        """Keep the model that `name` means out of memory while its files go away or are replaced by others.

        An idle one is unloaded first. Whoever wants it meanwhile waits for the end of the block and then gets what
        is there: ModelNotFound, if that is nothing. Raises ModelNotFound, ModelBusy while the model is lent or on
        its way into memory, ModelPinned, ServerDraining.
        """
        async with self._leases.keeping_out(name) as spec:
            await self.unload(spec.id)
            yield spec
            self._slots.failures.pop(spec.id, None)

    # -- memory -------------------------------------------------------------------------------------

    async def optimize(self, *, aggressive: bool = False, target_free_bytes: int | None = None) -> MemoryFreed:
        """Give back memory that nobody needs; calls that come while one runs share its answer.

        `aggressive` unloads every idle unpinned model; `target_free_bytes` unloads idle ones, least recently
        used first, until the machine has that much free.
        """
        return await self._relief.optimize(aggressive=aggressive, target_free_bytes=target_free_bytes)

    def has_memory(self) -> bool:
        """Whether the machine has memory enough for work to begin."""
        return self._relief.has_memory()

    async def watch_memory(self) -> None:
        """Until it is cancelled: let idle models leave when memory is short, or when a cache has to grow."""
        await self._relief.watch()

    # -- the end ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Refuse newcomers with ServerDraining from now on; returns when nobody has a model any more."""
        self._leases.refuse_newcomers()
        self._slots.end()
        while busy := next((slot for slot in self._slots if slot.users), None):
            await busy.idle.wait()

    async def close(self) -> None:
        """Refuse new leases, end the work in flight, unload everything. Raises what the first failed unload did."""
        self._leases.close()
        self._slots.end()
        for slot in self._slots:
            if slot.state is not ResidentState.UNLOADING:
                self._slots.start_unload(slot, "shutdown", ServerDraining())
        tasks: list[asyncio.Task[Any]] = [slot.work for slot in self._slots if slot.work is not None]
        tasks.extend(self._relief.under_way())
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
