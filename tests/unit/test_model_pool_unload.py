"""Taking models out on purpose, and the end."""

import asyncio
from contextlib import aclosing

import pytest

from application.events import ModelUnloaded
from application.model_pool import ModelPool
from application.residents import ResidentState, Unloaded
from domain.errors import ModelBusy, ModelLoadFailed, ModelNotFound, ModelPinned, RequestCancelled, ServerDraining
from domain.generation import GenerationRequest
from domain.model import Task
from domain.prompt import RawText
from tests.fakes.events import RecordedEvents
from tests.fakes.models import GIB, FakeModelRepository
from tests.fakes.virtual_time import settle, virtual_time

GONE = Unloaded("a:1b", was_loaded=True, bytes_freed=GIB)
NOTHING = Unloaded("a:1b", was_loaded=False, bytes_freed=0)


async def write(pool: ModelPool, name: str = "a") -> str:
    """Borrow the model and let it write its answer."""
    async with (
        pool.lend(name, Task.TEXT) as model,
        aclosing(model.generate(GenerationRequest(RawText("x y z")))) as chunks,
    ):
        return "".join([chunk.text async for chunk in chunks])


@virtual_time
async def test_an_idle_model_is_unloaded_and_the_bytes_are_told(pool: ModelPool, events: RecordedEvents) -> None:
    await pool.load("a")
    assert await pool.unload("A") == GONE
    assert events.of(ModelUnloaded) == [ModelUnloaded("a:1b", "asked", GIB)]
    await asyncio.sleep(1000.0)
    assert len(events.of(ModelUnloaded)) == 1


@virtual_time
async def test_there_may_be_nothing_to_unload(pool: ModelPool) -> None:
    assert await pool.unload("a") == NOTHING
    with pytest.raises(ModelNotFound):
        await pool.unload("nobody")


@virtual_time
async def test_a_model_in_use_is_not_unloaded(pool: ModelPool, repository: FakeModelRepository) -> None:
    async with pool.lend("a", Task.TEXT), pool.lend("a", Task.TEXT):
        with pytest.raises(ModelBusy) as caught:
            await pool.unload("a")
        assert caught.value.details == {"in_flight": 2}
    assert repository.unloads == []


@virtual_time
async def test_a_model_that_somebody_waits_for_is_not_unloaded(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    gate = repository.script("a:1b").load.shut()
    caller = asyncio.create_task(write(pool))
    await gate.arrived()
    with pytest.raises(ModelBusy):
        await pool.unload("a")
    gate.open()
    assert await caller == "x y z"


@virtual_time
async def test_a_load_that_nobody_waits_for_is_unloaded_when_it_is_done(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    gate = repository.script("a:1b").load.shut()
    caller = asyncio.create_task(write(pool))
    await gate.arrived()
    caller.cancel()
    await asyncio.wait({caller})
    unloading = asyncio.create_task(pool.unload("a"))
    await settle()
    gate.open()
    assert await unloading == GONE


@virtual_time
async def test_unloading_a_load_that_fails_finds_nothing_to_unload(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    script = repository.script("a:1b")
    script.load.shut()
    script.load_failures.append(ModelLoadFailed("damaged"))
    caller = asyncio.create_task(write(pool))
    await script.load.arrived()
    unloading = asyncio.create_task(pool.unload("a", force=True))
    await settle()
    script.load.open()
    assert await unloading == NOTHING
    with pytest.raises(RequestCancelled):
        await caller
    assert pool.residents() == []


@virtual_time
async def test_force_ends_the_work_in_flight(pool: ModelPool, repository: FakeModelRepository) -> None:
    between = repository.script("a:1b").text.between.shut()
    callers = [asyncio.create_task(write(pool)) for _ in range(3)]
    await between.arrived(3)
    assert await pool.unload("a", force=True) == GONE
    for caller in callers:
        with pytest.raises(RequestCancelled):
            await caller
    model = repository.text("a:1b")
    assert (model.opened, model.closed) == (3, 3)


@virtual_time
async def test_force_ends_the_wait_for_a_load_at_once(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    caller = asyncio.create_task(write(pool))
    await gate.arrived()
    unloading = asyncio.create_task(pool.unload("a", force=True))
    with pytest.raises(RequestCancelled, match="by force"):
        await caller
    assert not unloading.done()
    gate.open()
    assert await unloading == GONE


@virtual_time
async def test_force_reaches_a_waiter_whose_load_has_just_ended(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    gate = repository.script("a:1b").load.shut()
    caller = asyncio.create_task(write(pool))
    await gate.arrived()
    gate.open()
    while pool.residents()[0].state is ResidentState.LOADING:  # noqa: ASYNC110 (the waiter must not run in between)
        await asyncio.sleep(0)
    assert await pool.unload("a", force=True) == GONE
    with pytest.raises(RequestCancelled):
        await caller


@virtual_time
async def test_force_waits_for_a_holder_that_has_not_begun(pool: ModelPool, repository: FakeModelRepository) -> None:
    async with pool.lend("a", Task.TEXT) as model:
        unloading = asyncio.create_task(pool.unload("a", force=True))
        await settle()
        assert repository.unloads == []
        with pytest.raises(RequestCancelled):
            await anext(model.generate(GenerationRequest(RawText("x"))))
    assert await unloading == GONE


@virtual_time
async def test_whoever_comes_during_a_forced_unload_gets_a_new_load(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    between = repository.script("a:1b").text.between.shut()
    old = asyncio.create_task(write(pool))
    await between.arrived()
    unloading = asyncio.create_task(pool.unload("a", force=True))
    await asyncio.sleep(0)
    between.open()
    assert await write(pool) == "x y z"
    assert await unloading == GONE
    assert isinstance((await asyncio.gather(old, return_exceptions=True))[0], RequestCancelled)
    assert repository.count_loads("a:1b") == 2


@virtual_time
async def test_two_who_unload_at_once_share_the_unload(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a")
    gate = repository.script("a:1b").unload.shut()
    both = [asyncio.create_task(pool.unload("a", force=force)) for force in (False, True)]
    await gate.arrived()
    gate.open()
    assert await asyncio.gather(*both) == [GONE, GONE]
    assert repository.unloads == ["a:1b"]


@virtual_time
async def test_an_unload_goes_on_when_its_caller_leaves(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a")
    gate = repository.script("a:1b").unload.shut()
    unloading = asyncio.create_task(pool.unload("a"))
    await gate.arrived()
    unloading.cancel()
    await asyncio.wait({unloading})
    gate.open()
    await settle()
    assert repository.in_memory == set()
    assert pool.residents() == []


@virtual_time
async def test_an_unload_that_fails_says_so_and_the_model_can_be_loaded_again(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a")
    script = repository.script("a:1b")
    script.unload.shut()
    script.unload_failures.append(RuntimeError("the device is gone"))
    unloading = asyncio.create_task(pool.unload("a"))
    await script.unload.arrived()
    next_caller = asyncio.create_task(write(pool))
    await settle()
    script.unload.open()
    with pytest.raises(RuntimeError, match="the device is gone"):
        await unloading
    assert await next_caller == "x y z"


# -- pins -----------------------------------------------------------------------------------------------


@virtual_time
async def test_a_pinned_model_neither_expires_nor_is_unloaded_without_force(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a", pin=True)
    assert await write(pool) == "x y z"
    await asyncio.sleep(10_000.0)
    assert await pool.unload_idle() == []
    with pytest.raises(ModelPinned, match="force"):
        await pool.unload("a")
    assert repository.in_memory == {"a:1b"}
    assert await pool.unload("a", force=True) == GONE


@virtual_time
async def test_a_pin_lasts_until_it_is_taken_away(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a", pin=True)
    await pool.load("a")
    assert pool.residents()[0].pinned
    await pool.load("a", pin=False)
    await asyncio.sleep(301.0)
    assert repository.in_memory == set()


@virtual_time
async def test_a_pin_does_not_outlive_its_model(pool: ModelPool) -> None:
    await pool.load("a", pin=True)
    await pool.unload("a", force=True)
    await pool.load("a")
    assert not pool.residents()[0].pinned


# -- all of them ----------------------------------------------------------------------------------------


@virtual_time
async def test_unloading_what_is_idle_spares_what_is_not(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a")
    await pool.load("b", pin=True)
    async with pool.lend("c", Task.TEXT):
        assert await pool.unload_idle() == [GONE]
        assert repository.in_memory == {"b:1b", "c:1b"}


@virtual_time
async def test_closing_ends_the_work_and_empties_the_memory(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    between = repository.script("a:1b").text.between.shut()
    loading = repository.script("b:1b").load.shut()
    writing, waiting = asyncio.create_task(write(pool)), asyncio.create_task(write(pool, "b"))
    await pool.load("c", pin=True)
    await between.arrived()
    await loading.arrived()
    closing = asyncio.create_task(pool.close())
    with pytest.raises(RequestCancelled):
        await writing
    with pytest.raises(ServerDraining):
        await waiting
    with pytest.raises(ServerDraining):
        await pool.load("ear")
    assert not closing.done()
    loading.open()
    await closing
    assert repository.in_memory == set()
    assert pool.residents() == []
    assert {event.reason for event in events.of(ModelUnloaded)} == {"shutdown"}


@virtual_time
async def test_closing_waits_for_unloads_under_way(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a", keep_alive=0.0)
    gate = repository.script("a:1b").unload.shut()
    await gate.arrived()
    closing = asyncio.create_task(pool.close())
    await settle()
    assert not closing.done()
    gate.open()
    await closing


@virtual_time
async def test_closing_goes_through_all_models_although_one_unload_fails(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a")
    await pool.load("b")
    repository.script("a:1b").unload_failures.append(RuntimeError("the device is gone"))
    with pytest.raises(RuntimeError, match="the device is gone"):
        await pool.close()
    assert repository.in_memory == set()


@virtual_time
async def test_closing_twice_is_closing_once(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a")
    await asyncio.gather(pool.close(), pool.close())
    await pool.close()
    assert repository.unloads == ["a:1b"]
