"""Lending: who gets a model, and for how long it stays."""

import asyncio
import weakref
from collections.abc import Sequence

import pytest

from application.events import ModelLoaded, ModelLoadRefused, ModelUnloaded
from application.model_pool import ModelPool
from application.ports import TextModel
from application.residents import ResidentState
from domain.errors import (
    DeviceNotAvailable,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    ServerDraining,
    UnsupportedCapability,
)
from domain.keep_alive import FOREVER
from domain.model import LoadOptions, ModelSpec, Task
from domain.repositories import LoadedModel, OnLoadProgress
from tests.fakes.clock import EPOCH, LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import FakeModelRepository, text_spec
from tests.fakes.virtual_time import settle, virtual_time


async def use(pool: ModelPool, name: str = "a", *, seconds: float = 0.0, keep_alive: float | None = None) -> TextModel:
    """Borrow the model for some seconds."""
    async with pool.lend(name, Task.TEXT, keep_alive=keep_alive) as model:
        await asyncio.sleep(seconds)
        return model


def states(pool: ModelPool) -> Sequence[tuple[str, ResidentState, int]]:
    return [(resident.spec.id, resident.state, resident.in_flight) for resident in pool.residents()]


# -- getting one ----------------------------------------------------------------------------------------


@virtual_time
async def test_a_model_that_is_not_loaded_is_loaded(pool: ModelPool, events: RecordedEvents) -> None:
    async with pool.lend("a", Task.TEXT) as model:
        assert model.info.is_loaded
        assert states(pool) == [("a:1b", ResidentState.LOADED, 1)]
    assert states(pool) == [("a:1b", ResidentState.LOADED, 0)]
    assert events == [ModelLoaded(model.info)]


@virtual_time
async def test_a_model_that_is_loaded_is_not_loaded_again(pool: ModelPool, repository: FakeModelRepository) -> None:
    assert await use(pool) is await use(pool, "A:1B")
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_an_unknown_name_loads_nothing(pool: ModelPool, repository: FakeModelRepository) -> None:
    with pytest.raises(ModelNotFound):
        await use(pool, "nobody")
    assert repository.loads == []


@virtual_time
async def test_a_model_for_another_task_is_not_loaded(pool: ModelPool, repository: FakeModelRepository) -> None:
    with pytest.raises(UnsupportedCapability, match="ear"):
        await use(pool, "ear")
    assert repository.loads == []


@virtual_time
async def test_fifty_first_callers_make_one_load(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    callers = [asyncio.create_task(use(pool)) for _ in range(50)]
    await gate.arrived()
    await settle()
    assert states(pool) == [("a:1b", ResidentState.LOADING, 50)]
    gate.open()
    models = await asyncio.gather(*callers)
    assert len({id(model) for model in models}) == 1
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_different_models_load_at_the_same_time(pool: ModelPool, repository: FakeModelRepository) -> None:
    gates = [repository.script(model_id).load.shut() for model_id in ("a:1b", "b:1b")]
    callers = [asyncio.create_task(use(pool, name)) for name in ("a", "b")]
    for gate in gates:
        await gate.arrived()
    gates[1].open()
    await callers[1]
    assert not callers[0].done()
    gates[0].open()
    await callers[0]


@virtual_time
async def test_a_caller_that_leaves_does_not_break_the_load(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    first, second = (asyncio.create_task(use(pool)) for _ in range(2))
    await gate.arrived()
    await settle()
    first.cancel()
    await asyncio.wait({first})
    gate.open()
    assert (await second).info.is_loaded
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_a_load_that_everybody_has_left_is_finished(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    caller = asyncio.create_task(use(pool))
    await gate.arrived()
    caller.cancel()
    await asyncio.wait({caller})
    gate.open()
    await settle()
    assert states(pool) == [("a:1b", ResidentState.LOADED, 0)]
    await asyncio.sleep(300.0)
    assert states(pool) == []


@virtual_time
async def test_a_caller_waits_no_longer_than_the_load_timeout(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    started = asyncio.get_running_loop().time()
    with pytest.raises(ModelLoading, match="a:1b"):
        await use(pool)
    assert asyncio.get_running_loop().time() - started == pytest.approx(60.0)
    gate.open()
    await use(pool)
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_time_spent_waiting_for_an_unload_counts_too(pool: ModelPool, repository: FakeModelRepository) -> None:
    await use(pool)
    repository.script("a:1b").unload.shut()
    unloading = asyncio.create_task(pool.unload("a"))
    await settle()
    with pytest.raises(ModelLoading, match="a:1b"):
        await use(pool)
    repository.script("a:1b").unload.open()
    with pytest.raises(ModelLoading, match="a:1b"):
        await unloading
    await use(pool)
    assert repository.count_loads("a:1b") == 2


@virtual_time
async def test_the_default_options_are_those_of_a_load_on_demand(repository: FakeModelRepository) -> None:
    wanted = LoadOptions(device="cpu", num_ctx=512)
    pool = ModelPool(repository, LoopClock(), RecordedEvents(), default_options=wanted)
    assert (await use(pool)).info.context_length == 512
    assert repository.loads == [("a:1b", wanted)]


# -- loads that fail ------------------------------------------------------------------------------------


@virtual_time
async def test_everybody_who_waits_learns_why_a_load_failed(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    script = repository.script("a:1b")
    script.load.shut()
    script.load_failures.append(ModelLoadFailed("model.safetensors is damaged"))
    callers = [asyncio.create_task(use(pool)) for _ in range(5)]
    await script.load.arrived()
    await settle()
    script.load.open()
    failures = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["model.safetensors is damaged"] * 5
    assert str(pool.failure_of("a:1b")) == "model.safetensors is damaged"
    assert events == [ModelLoadRefused("a:1b", "model_load_failed", "model.safetensors is damaged")]
    assert states(pool) == []


@virtual_time
async def test_the_next_call_after_a_failed_load_loads_anew(pool: ModelPool, repository: FakeModelRepository) -> None:
    repository.script("a:1b").load_failures.append(ModelLoadFailed("a cosmic ray"))
    with pytest.raises(ModelLoadFailed, match="a cosmic ray"):
        await use(pool)
    assert (await use(pool)).info.is_loaded
    assert pool.failure_of("a:1b") is None


@virtual_time
async def test_a_failed_load_touches_no_other_model(pool: ModelPool, repository: FakeModelRepository) -> None:
    repository.script("b:1b").load_failures.append(DeviceNotAvailable("cuda:9", ["cpu"]))
    async with pool.lend("a", Task.TEXT):
        with pytest.raises(DeviceNotAvailable):
            await use(pool, "b")
        assert states(pool) == [("a:1b", ResidentState.LOADED, 1)]
    assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_an_unforeseen_failure_names_the_model_and_shows_no_path(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    cause = FileNotFoundError(2, "No such file", "/srv/models/secret/model.bin")
    repository.script("a:1b").load_failures.append(cause)
    with pytest.raises(ModelLoadFailed) as caught:
        await use(pool)
    assert "a:1b" in str(caught.value)
    assert "/srv" not in str(caught.value)
    assert caught.value.__cause__ is cause


class Weights:
    """Something big."""


class HalfLoading(FakeModelRepository):
    """Fails in the middle of a load, with weights in its hands."""

    def __init__(self) -> None:
        super().__init__(text_spec("a:1b"))
        self.weights: list[weakref.ref[Weights]] = []

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        weights = Weights()
        self.weights.append(weakref.ref(weights))
        try:
            raise OSError("the file ends here")
        except OSError as error:
            raise ModelLoadFailed("the file is cut") from error


@virtual_time
async def test_the_memory_of_a_failed_load_is_free_although_its_failure_is_kept() -> None:
    repository = HalfLoading()
    pool = ModelPool(repository, LoopClock(), RecordedEvents())
    with pytest.raises(ModelLoadFailed):
        await use(pool)
    assert pool.failure_of("a:1b") is not None
    assert [weights() for weights in repository.weights] == [None]


# -- how long it stays ----------------------------------------------------------------------------------


@virtual_time
async def test_an_idle_model_leaves_after_keep_alive(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    await use(pool)
    await asyncio.sleep(299.0)
    assert repository.in_memory == {"a:1b"}
    await asyncio.sleep(2.0)
    assert repository.in_memory == set()
    assert events.of(ModelUnloaded) == [ModelUnloaded("a:1b", "expired", 1 << 30)]
    assert states(pool) == []


@virtual_time
async def test_a_model_in_use_never_expires(pool: ModelPool, repository: FakeModelRepository) -> None:
    await use(pool, seconds=36_000.0)
    assert repository.unloads == []


@virtual_time
async def test_keep_alive_counts_from_the_end_of_the_last_use(pool: ModelPool, repository: FakeModelRepository) -> None:
    await asyncio.gather(use(pool, seconds=100.0), use(pool, seconds=1000.0))
    await asyncio.sleep(200.0)
    await use(pool)
    await asyncio.sleep(299.0)
    assert repository.unloads == []
    await asyncio.sleep(2.0)
    assert repository.unloads == ["a:1b"]


@virtual_time
async def test_a_resident_tells_when_it_will_leave(pool: ModelPool) -> None:
    await asyncio.sleep(10.0)
    async with pool.lend("a", Task.TEXT):
        await asyncio.sleep(5.0)
    async with pool.lend("a", Task.TEXT):
        (lent,) = pool.residents()
        assert lent.expires_at is None
    (idle,) = pool.residents()
    assert idle.loaded_at == pytest.approx(EPOCH + 10.0)
    assert idle.last_used_at == pytest.approx(EPOCH + 15.0)
    assert idle.expires_at == pytest.approx(EPOCH + 315.0)
    assert idle.model is not None
    assert idle.model.memory_bytes == 1 << 30


@virtual_time
async def test_with_keep_alive_zero_a_model_leaves_after_the_last_request(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    async with pool.lend("a", Task.TEXT):
        await use(pool, keep_alive=0.0)
        await asyncio.sleep(1.0)
        assert repository.unloads == []
    await settle()
    assert repository.unloads == ["a:1b"]


@virtual_time
async def test_a_model_kept_for_ever_never_leaves(pool: ModelPool, repository: FakeModelRepository) -> None:
    await use(pool, keep_alive=FOREVER)
    (resident,) = pool.residents()
    assert resident.expires_at is None
    await asyncio.sleep(10 * 365 * 86_400.0)
    assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_the_last_caller_s_keep_alive_counts(pool: ModelPool, repository: FakeModelRepository) -> None:
    await use(pool, keep_alive=FOREVER)
    await use(pool)
    await asyncio.sleep(400.0)
    assert repository.in_memory == {"a:1b"}
    await use(pool, keep_alive=5.0)
    await asyncio.sleep(6.0)
    assert repository.in_memory == set()


@virtual_time
async def test_a_model_that_left_comes_back_for_the_next_caller(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    before = await use(pool, keep_alive=0.0)
    await settle()
    assert await use(pool) is not before
    assert repository.count_loads("a:1b") == 2


@virtual_time
async def test_a_caller_during_the_unload_waits_and_loads_anew(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    gate = repository.script("a:1b").unload.shut()
    before = await use(pool, keep_alive=0.0)
    await gate.arrived()
    caller = asyncio.create_task(use(pool))
    await settle()
    assert states(pool) == [("a:1b", ResidentState.UNLOADING, 0)]
    gate.open()
    assert await caller is not before


@virtual_time
async def test_an_error_in_the_block_ends_the_lease(pool: ModelPool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.lend("a", Task.TEXT):
            raise ZeroDivisionError
    assert states(pool) == [("a:1b", ResidentState.LOADED, 0)]


@virtual_time
async def test_a_pool_that_is_closed_lends_nothing(pool: ModelPool) -> None:
    await pool.close()
    with pytest.raises(ServerDraining):
        await use(pool)
