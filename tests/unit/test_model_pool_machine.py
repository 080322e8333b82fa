"""Any order of loading, lending, leaving, failing, forcing, pinning, deleting and waiting keeps the promises."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from application.device_arbiter import DeviceArbiter, Sharing
from application.events import ModelLoadRefused, ModelSuspended
from application.model_pool import ModelPool
from application.residents import ResidentState
from application.shortages import Shortage, Shortages
from domain.errors import (
    InsufficientMemory,
    ModelBusy,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    ModelPinned,
    Overloaded,
    RequestCancelled,
    ServerDraining,
)
from domain.generation import GenerationRequest
from domain.keep_alive import FOREVER
from domain.memory import MemoryBounds
from domain.model import LoadOptions, ModelSpec
from domain.prompt import RawText
from domain.transcription import TranscriptionRequest
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import (
    GIB,
    IDLE_RSS,
    FakeModelRepository,
    FakeSpeechModel,
    FakeTextModel,
    segment,
    speech_spec,
    text_spec,
)
from tests.fakes.virtual_time import VirtualTimeLoop, settle

MODELS = ("a:1b", "b:1b", "c:1b")
SPECS = {model_id: text_spec(model_id, size_bytes=size * GIB) for model_id, size in zip(MODELS, (1, 1, 2), strict=True)}
EXPECTED = (
    asyncio.CancelledError,
    InsufficientMemory,
    ModelBusy,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    ModelPinned,
    Overloaded,
    RequestCancelled,
    ServerDraining,
)
models = st.sampled_from(MODELS)


class Holder:
    """A caller that borrows a model and then either waits to be told to go on, or writes until it is let through."""

    def __init__(self, spec: ModelSpec, *, writes: bool) -> None:
        self.spec = spec
        self.writes = writes
        self.go_on = asyncio.Event()
        self.model: FakeTextModel | FakeSpeechModel | None = None

    @property
    def model_id(self) -> str:
        return self.spec.id

    async def borrow(self, pool: ModelPool, keep_alive: float | None) -> None:
        lent: Any = pool.lend(self.model_id, self.spec.task, keep_alive=keep_alive)  # type: ignore[call-overload]
        async with lent as model:
            assert isinstance(model, FakeTextModel | FakeSpeechModel)
            self.model = model
            try:
                if not self.writes:
                    await self.go_on.wait()
                async with aclosing(self.work(model)) as pieces:
                    async for _ in pieces:
                        pass
            finally:
                self.model = None

    def work(self, model: FakeTextModel | FakeSpeechModel) -> AsyncGenerator[object, None]:
        if isinstance(model, FakeTextModel):
            return model.generate(GenerationRequest(RawText("one two")))
        return model.transcribe(Path(__file__), TranscriptionRequest())


class PoolMachine(RuleBasedStateMachine):
    """Models of 1, 1 and 2 GiB in 2 of the machine's 4 GiB; load timeout 60 s, keep_alive 300 s, hold 30 s.

    Other programs take and give back memory, and caches of models ask for more.
    """

    specs: ClassVar = SPECS
    sharing: ClassVar = Sharing.AUTO

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.repository = FakeModelRepository(*self.specs.values(), memory_budget=2 * GIB, gpus=1)
        for model_id in MODELS:
            script = self.repository.script(model_id)
            script.text.between.shut()
            script.speech.between.shut()
            script.speech.segments = [segment(0, "one"), segment(1, " two")]
        self.repository.machine_bytes = 4 * GIB
        self.shortages = Shortages()
        self.events = RecordedEvents()
        self.pool = ModelPool(
            self.repository,
            LoopClock(),
            self.events,
            keep_alive=300.0,
            load_timeout=60.0,
            arbiter=DeviceArbiter(self.sharing),
            bounds=MemoryBounds.below(0.9),
            shortages=self.shortages,
        )
        self.wishes = self.heard = 0
        self.watch = self.runner.run(self.start_watch())
        self.calls: list[asyncio.Task[Any]] = []
        self.holders: list[tuple[Holder, asyncio.Task[Any]]] = []
        self.forced: set[str] = set()
        self.changing: set[str] = set()
        self.pulls = 0

    async def start_watch(self) -> asyncio.Task[None]:
        watch = asyncio.create_task(self.pool.watch_memory())
        await settle()
        return watch

    def go(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a call and run everything that can run now."""

        async def start() -> asyncio.Task[Any]:
            call = asyncio.create_task(coroutine)
            self.calls.append(call)
            await settle()
            return call

        return self.runner.run(start())

    def settle(self) -> None:
        self.runner.run(settle())

    # -- what callers do ----------------------------------------------------------------------------

    @rule(model=models, writes=st.booleans(), keep_alive=st.sampled_from([None, None, 0.0, 10.0, FOREVER]))
    def lend(self, model: str, writes: bool, keep_alive: float | None) -> None:
        holder = Holder(self.specs[model], writes=writes)
        self.holders.append((holder, self.go(holder.borrow(self.pool, keep_alive))))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), leaves=st.booleans())
    def end(self, data: st.DataObject, leaves: bool) -> None:
        holder, call = data.draw(st.sampled_from(self.holders))
        if leaves:
            call.cancel()
        else:
            holder.go_on.set()
        self.settle()

    @rule(model=models)
    def let_writers_finish(self, model: str) -> None:
        script = self.repository.script(model)
        for gate in (script.text.between, script.speech.between):
            gate.open()
            self.settle()
            gate.shut()

    @rule(model=models, device=st.sampled_from(["auto", "cpu", "cuda"]), pin=st.sampled_from([None, None, True, False]))
    def load(self, model: str, device: str, pin: bool | None) -> None:
        self.go(self.pool.load(model, LoadOptions(device=device), pin=pin))

    @rule(model=models, force=st.booleans())
    def unload(self, model: str, force: bool) -> None:
        if force:
            self.forced.add(model)
        self.go(self.pool.unload(model, force=force))

    @rule(model=models, go_on=st.booleans())
    def delete_and_pull(self, model: str, go_on: bool) -> None:
        """The files go; after 20 s others are there, unless the disk is in the way."""
        self.go(self.change_files(model, go_on=go_on))

    async def change_files(self, model: str, *, go_on: bool) -> None:
        async with self.pool.removing(model):
            assert model not in self.repository.in_memory
            self.changing.add(model)
            try:
                await asyncio.sleep(20.0)
                assert model not in self.repository.in_memory, "it was loaded while its files changed"
                if go_on:
                    self.repository.specs = [spec for spec in self.repository.specs if spec.id != model]
            finally:
                self.changing.discard(model)
        if go_on:
            await asyncio.sleep(20.0)
            self.pulls += 1
            if all(spec.id != model for spec in self.repository.specs):
                self.repository.specs.append(replace(self.specs[model], digest=str(self.pulls)))

    @rule(aggressive=st.booleans(), free=st.sampled_from([None, GIB]))
    def optimise(self, aggressive: bool, free: int | None) -> None:
        self.go(self.pool.optimize(aggressive=aggressive, target_free_bytes=free))

    @rule(size=st.sampled_from([GIB // 8, GIB, 4 * GIB]))
    def a_cache_asks_for_more(self, size: int) -> None:
        def again() -> None:
            self.heard += 1

        self.wishes += 1
        assert self.shortages.tell(Shortage(self.repository.where, size, again))
        self.settle()

    # -- what the world does ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 15.0, 61.0, 400.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule(size=st.sampled_from([0, 0, GIB, 2 * GIB, 4 * GIB]))
    def others_hold(self, size: int) -> None:
        self.repository.others_hold(size)

    @rule(model=models, is_open=st.booleans())
    def hold_loads(self, model: str, is_open: bool) -> None:
        gate = self.repository.script(model).load
        gate.open() if is_open else gate.shut()
        self.settle()

    @rule(model=models, is_open=st.booleans())
    def hold_unloads(self, model: str, is_open: bool) -> None:
        gate = self.repository.script(model).unload
        gate.open() if is_open else gate.shut()
        self.settle()

    @rule(model=models, error=st.sampled_from([ModelLoadFailed("damaged"), OSError("cut"), InsufficientMemory()]))
    def fail_the_next_load(self, model: str, error: Exception) -> None:
        self.repository.script(model).load_failures.append(error)

    # -- what holds at any time ---------------------------------------------------------------------

    @invariant()
    def no_promise_is_broken(self) -> None:
        assert self.repository.violations == []
        assert self.loop.unhandled == []

    @invariant()
    def memory_is_never_overbooked(self) -> None:
        assert self.repository.loads_over_budget == 0
        assert self.repository.memory().rss - IDLE_RSS <= 2 * GIB

    @invariant()
    def who_is_lent_keeps_its_files(self) -> None:
        assert not self.changing & {holder.model_id for holder, _ in self.holders if holder.model is not None}

    @invariant()
    def a_lent_model_stays_in_memory(self) -> None:
        for holder, _ in self.holders:
            assert holder.model is None or not holder.model.is_unloaded

    @invariant()
    def only_force_takes_a_model_from_those_who_have_it(self) -> None:
        leaving = {resident.spec.id for resident in self.pool.residents() if resident.state is ResidentState.UNLOADING}
        self.forced &= leaving
        lent = {holder.model_id for holder, _ in self.holders if holder.model is not None}
        lost = {event.model_id for event in self.events.of(ModelLoadRefused)}
        assert leaving & lent <= self.forced | (lost & {event.model_id for event in self.events.of(ModelSuspended)})

    @invariant()
    def every_user_is_counted(self) -> None:
        residents = {resident.spec.id: resident for resident in self.pool.residents()}
        for model_id in MODELS:
            inside = sum(holder.model is not None for holder, _ in self.holders if holder.model_id == model_id)
            counted = residents[model_id].in_flight if model_id in residents else 0
            assert inside <= counted <= sum(not call.done() for call in self.calls)

    @invariant()
    def what_is_in_memory_is_known_and_what_is_idle_will_leave(self) -> None:
        residents = self.pool.residents()
        assert self.repository.in_memory <= {resident.spec.id for resident in residents}
        for resident in residents:
            if resident.state is ResidentState.LOADED:
                assert resident.spec.id in self.repository.in_memory
                assert resident.expires_at is None or not (resident.in_flight or resident.pinned)

    @property
    def loop(self) -> VirtualTimeLoop:
        loop = self.runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return loop

    def teardown(self) -> None:
        """Nothing is stuck, nothing is left."""
        with self.runner:
            self.runner.run(self.finish())
            assert self.loop.unhandled == []

    async def finish(self) -> None:
        for model_id in MODELS:
            script = self.repository.script(model_id)
            script.load_failures.clear()
            script.suspend_failures.clear()
            for gate in (script.load, script.unload, script.suspend, script.text.between, script.speech.between):
                gate.open()
        self.repository.others_hold(0)
        for holder, _ in self.holders:
            holder.go_on.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*self.calls, return_exceptions=True), timeout=3600.0)
        assert [
            outcome for outcome in outcomes if isinstance(outcome, BaseException) and not isinstance(outcome, EXPECTED)
        ] == []
        assert [resident.in_flight for resident in self.pool.residents() if resident.in_flight] == []
        await asyncio.sleep(10.0)
        assert self.heard == self.wishes
        self.watch.cancel()
        await asyncio.wait({self.watch})
        await asyncio.sleep(10_000.0)
        for resident in self.pool.residents():
            assert resident.state is ResidentState.LOADED
            assert resident.expires_at is None
        await self.pool.close()
        assert self.pool.residents() == []
        assert self.repository.in_memory == set()
        assert all(model.is_unloaded and model.opened == model.closed for model in self.repository.models)
        assert self.repository.violations == []
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TurnsMachine(PoolMachine):
    """The first two are of one group and the third of the other, which may not be there together."""

    specs: ClassVar = {**SPECS, "c:1b": speech_spec("c:1b", size_bytes=GIB)}
    sharing: ClassVar = Sharing.EXCLUSIVE

    @rule(model=models, is_open=st.booleans())
    def hold_suspensions(self, model: str, is_open: bool) -> None:
        gate = self.repository.script(model).suspend
        gate.open() if is_open else gate.shut()
        self.settle()

    @rule(model=models)
    def fail_the_next_suspension(self, model: str) -> None:
        self.repository.script(model).suspend_failures.append(RuntimeError("stuck"))

    @invariant()
    def who_is_suspended_and_wanted_stands_in_line(self) -> None:
        for resident in self.pool.residents():
            assert resident.state is not ResidentState.SUSPENDED or resident.in_flight or not resident.waits

    @invariant()
    def groups_are_never_there_together(self) -> None:
        there = {self.specs[model_id].task for model_id in self.repository.in_memory}
        assert len(there) <= 1


@pytest.mark.parametrize("machine", [PoolMachine, TurnsMachine])
def test_no_order_of_events_breaks_a_promise(machine: type[PoolMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
