"""Which models are in memory. The pool lends them, and nothing else loads or unloads one.

How they get in and out is the business of `slots`; here is who may have them, and for how long.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, overload

from application.device_arbiter import DeviceArbiter
from application.events import DeviceSwapped, Publish
from application.in_flight import RequestsInFlight
from application.ports import Clock, EmbeddingModel, SpeechModel, TextModel
from application.residents import Resident, ResidentState, Unloaded
from application.slot import Slot
from application.slots import Slots
from domain.errors import (
    IngleError,
    ModelBusy,
    ModelLoading,
    ModelPinned,
    ServerDraining,
    UnsupportedCapability,
)
from domain.memory import MemoryFreed
from domain.model import LoadOptions, Model, ModelSpec, Task
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
        arbiter: DeviceArbiter | None = None,
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._keep_alive = keep_alive
        self._load_timeout = load_timeout
        self._default_options = default_options or LoadOptions()
        self._slots = Slots(repository, clock, publish, keep_alive, arbiter or DeviceArbiter())
        self._optimising: asyncio.Task[MemoryFreed] | None = None
        self._kept_out: dict[str, asyncio.Event] = {}
        self._draining = False
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
        return self._slots.last_swap

    @property
    def is_draining(self) -> bool:
        """Whether newcomers are refused because the end is near."""
        return self._draining

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
        UnsupportedCapability (a model for another task), ModelLoading (the load outlasts the load timeout),
        ServerDraining, and whatever the load raises.
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
        slot = await self._acquire(spec, self._options_for(spec, LoadOptions()))
        if keep_alive is not None:
            slot.keep_alive = keep_alive
        assert slot.loaded is not None
        try:
            yield slot.loaded
        finally:
            self._slots.release(slot)

    def _options_for(self, spec: ModelSpec, wanted: LoadOptions) -> LoadOptions:
        """`wanted`; what it leaves open is as the operator wants this model, else as all models are."""
        return wanted.completed_by(spec.residence.options).completed_by(self._default_options)

    async def _acquire(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress | None = None) -> Slot:
        """A loaded slot with one more user; the caller must release it."""
        deadline = self._clock.monotonic() + self._load_timeout
        while True:
            if self._draining:
                raise ServerDraining()
            if (back := self._kept_out.get(spec.id)) is not None:
                await self._wait_for(back, deadline, f"the files of '{spec.id}' are being changed: ask again")
                spec = self._repository.find(spec.id)
                continue
            slot = self._slots.get(spec.id) or self._slots.start_load(spec, options)
            if slot.state is ResidentState.UNLOADING:
                await self._wait_for_unload(slot, deadline)
            elif slot.open.is_set():
                break
            else:
                await self._wait_for(slot.open, deadline, f"model '{spec.id}' gives way to another: ask again")
        slot.enter()
        try:
            await self._wait_for_load(slot, deadline, on_progress)
        except BaseException:
            self._slots.release(slot)
            raise
        return slot

    async def _wait_for(self, event: asyncio.Event, deadline: float, refusal: str) -> None:
        """Until `event` is set. Raises ModelLoading, with `refusal` as its message, when the deadline passes first."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await event.wait()
        except TimeoutError:
            raise ModelLoading(refusal) from None

    async def _wait_for_load(self, slot: Slot, deadline: float, on_progress: OnLoadProgress | None) -> None:
        """Until the load is over; it goes on if we are cancelled."""
        if on_progress is not None:
            slot.listeners.append(on_progress)
        try:
            await self._wait_for(
                slot.settled, deadline, f"model '{slot.spec.id}' is still loading: ask again in a moment"
            )
        finally:
            if on_progress is not None:
                slot.listeners.remove(on_progress)
        if slot.failure is not None:
            raise slot.failure.with_traceback(None)

    async def _wait_for_unload(self, slot: Slot, deadline: float) -> None:
        """Until the unload is over, well or badly; it goes on if we are cancelled."""
        assert slot.work is not None
        await asyncio.wait({slot.work}, timeout=max(0.0, deadline - self._clock.monotonic()))
        if not slot.work.done():
            raise ModelLoading(f"model '{slot.spec.id}' is still being unloaded: ask again in a moment")

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
            slot = await self._acquire(spec, exactly, on_progress)
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
            await self._wait_for_unload(slot, self._clock.monotonic() + self._load_timeout)

    # -- unloading ----------------------------------------------------------------------------------

    async def unload(self, name: str, *, force: bool = False) -> Unloaded:
        """Take a model out of memory.

        Raises ModelBusy while it is lent or awaited and ModelPinned while it is pinned; `force` overrides
        both: the work in flight, and whoever waits for the load, end with RequestCancelled first.
        """
        spec = self._repository.find(name)
        slot = self._slots.get(spec.id)
        if slot is None:
            return Unloaded(spec.id, was_loaded=False, bytes_freed=0)
        if slot.state is not ResidentState.UNLOADING:
            if slot.users and not force:
                raise ModelBusy(spec.id, slot.users)
            if slot.pinned and not force:
                raise ModelPinned(f"model '{spec.id}' is pinned: unload it with force")
            self._slots.start_unload(slot, "asked")
        await self._wait_for_unload(slot, self._clock.monotonic() + self._load_timeout)
        freed = slot.work.result() if slot.work is not None else None
        return Unloaded(spec.id, was_loaded=freed is not None, bytes_freed=freed or 0)

    async def unload_idle(self) -> Sequence[Unloaded]:
        """Unload every model that nobody uses and that is not pinned."""
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
        spec = self._repository.find(name)
        while (back := self._kept_out.get(spec.id)) is not None:
            deadline = self._clock.monotonic() + self._load_timeout
            await self._wait_for(back, deadline, f"the files of '{spec.id}' are being changed: ask again")
            spec = self._repository.find(name)
        if self._draining:
            raise ServerDraining()
        slot = self._slots.get(spec.id)
        if slot is not None and slot.state is ResidentState.LOADING:
            raise ModelBusy(spec.id, slot.users)
        back = self._kept_out[spec.id] = asyncio.Event()
        try:
            await self.unload(spec.id)
            yield spec
            self._slots.failures.pop(spec.id, None)
        finally:
            del self._kept_out[spec.id]
            back.set()

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
            actions += [f"unloaded {gone.model_id}" for gone in await self.unload_idle()]
        actions += await self._repository.trim()
        while target_free_bytes is not None and self._repository.memory().available < target_free_bytes:
            idle = self._slots.idle()
            if not idle:
                break
            await asyncio.shield(self._slots.start_unload(idle[0], "asked"))
            actions += [f"unloaded {idle[0].spec.id}", *await self._repository.trim()]
        return MemoryFreed(before, self._repository.memory(), tuple(actions))

    # -- the end ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Refuse new leases, end the work in flight, unload everything. Raises what the first failed unload did."""
        self._draining = True
        for slot in self._slots:
            if slot.state is not ResidentState.UNLOADING:
                self._slots.start_unload(slot, "shutdown", ServerDraining())
        tasks: list[asyncio.Task[Any]] = [slot.work for slot in self._slots if slot.work is not None]
        if self._optimising is not None:
            tasks.append(self._optimising)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
