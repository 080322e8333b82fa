"""Who wants a model, waits until it is in memory, and has it from then on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from application.ports import Clock
from application.residents import ResidentState
from application.slot import Slot
from application.slots import Slots
from domain.errors import ModelBusy, ModelLoading, ServerDraining
from domain.model import LoadOptions, ModelSpec
from domain.repositories import ModelRepository, OnLoadProgress


class Leases:
    """Gives slots to users, one more each time, and takes them back.

    * Nobody waits for longer than the load timeout: ModelLoading then, and the load goes on.
    * Once `refuse_newcomers` was called whoever comes is refused with ServerDraining, once `close` was called
      those who wait are too.
    * While a model is kept out, those who want it wait.
    """

    def __init__(self, repository: ModelRepository, clock: Clock, slots: Slots, load_timeout: float) -> None:
        self._repository = repository
        self._clock = clock
        self._slots = slots
        self._load_timeout = load_timeout
        self._kept_out: dict[str, asyncio.Event] = {}
        self._is_closed = False
        self.is_draining = False

    def refuse_newcomers(self) -> None:
        """Let in nobody but those who wait already, for good."""
        self.is_draining = True

    def close(self) -> None:
        """Let nobody in any more, for good."""
        self.is_draining = self._is_closed = True

    async def acquire(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress | None = None) -> Slot:
        """A loaded slot with one more user; the caller must give it back to the slots' `release`."""
        deadline = self._deadline()
        if self.is_draining:
            raise ServerDraining()
        while True:
            if self._is_closed:
                raise ServerDraining()
            if spec.id in self._kept_out:
                spec = await self._wait_for_files(spec, deadline)
                continue
            slot = self._slots.get(spec.id) or self._slots.start_load(spec, options)
            if slot.state is ResidentState.UNLOADING:
                await self.wait_for_unload(slot, deadline)
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

    async def wait_for_unload(self, slot: Slot, deadline: float | None = None) -> None:
        """Until the unload is over, well or badly; it goes on if we are cancelled. `deadline` is monotonic."""
        assert slot.work is not None
        deadline = self._deadline() if deadline is None else deadline
        await asyncio.wait({slot.work}, timeout=max(0.0, deadline - self._clock.monotonic()))
        if not slot.work.done():
            raise ModelLoading(f"model '{slot.spec.id}' is still being unloaded: ask again in a moment")

    @asynccontextmanager
    async def keeping_out(self, name: str) -> AsyncGenerator[ModelSpec, None]:
        """While the block runs, whoever wants the model that `name` means waits, and then finds it anew.

        Two such blocks come one after the other. Raises ModelNotFound, ModelBusy while the model is on its way into
        memory, ServerDraining.
        """
        spec = self._repository.find(name)
        while spec.id in self._kept_out and not self.is_draining:
            spec = await self._wait_for_files(spec, self._deadline(), name)
        if self.is_draining:
            raise ServerDraining()
        slot = self._slots.get(spec.id)
        if slot is not None and slot.state is ResidentState.LOADING:
            raise ModelBusy(spec.id, slot.users)
        back = self._kept_out[spec.id] = asyncio.Event()
        try:
            yield spec
        finally:
            del self._kept_out[spec.id]
            back.set()

    async def _wait_for_files(self, spec: ModelSpec, deadline: float, name: str | None = None) -> ModelSpec:
        """What the name means once its files are no longer being changed."""
        back = self._kept_out[spec.id]
        await self._wait_for(back, deadline, f"the files of '{spec.id}' are being changed: ask again")
        return self._repository.find(name or spec.id)

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

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._load_timeout
