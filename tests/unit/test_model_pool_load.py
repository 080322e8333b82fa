"""Loading on purpose, with options; and memory: making room, giving back."""

import asyncio

import pytest

from application.events import ModelUnloaded
from application.model_pool import ModelPool
from domain.errors import DeviceNotAvailable, InsufficientMemory, ModelBusy, ModelNotFound
from domain.model import LoadOptions, Task
from domain.repositories import LoadProgress
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import GIB, FakeModelRepository
from tests.fakes.virtual_time import settle, virtual_time


@virtual_time
async def test_a_load_tells_whether_it_had_anything_to_do(pool: ModelPool) -> None:
    model, done = await pool.load("a")
    assert (model.id, model.is_loaded, done) == ("a:1b", True, True)
    assert await pool.load("a") == (model, False)


@virtual_time
async def test_a_load_renews_the_time_to_stay(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a", keep_alive=1000.0)
    await asyncio.sleep(900.0)
    await pool.load("a")
    await asyncio.sleep(299.0)
    assert repository.in_memory == {"a:1b"}
    await asyncio.sleep(2.0)
    assert repository.in_memory == set()


@virtual_time
async def test_loads_of_one_model_share_the_work(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    loads = [asyncio.create_task(pool.load("a")) for _ in range(4)]
    await gate.arrived()
    gate.open()
    assert {done for _, done in await asyncio.gather(*loads)} == {True}
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_the_progress_of_a_load_reaches_those_who_wait_for_it(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    steps: list[LoadProgress] = []
    await pool.load("a", on_progress=steps.append)
    assert steps == list(repository.script("a:1b").load_progress)


@virtual_time
async def test_who_has_left_hears_no_more_of_the_load(pool: ModelPool, repository: FakeModelRepository) -> None:
    gate = repository.script("a:1b").load.shut()
    steps: list[LoadProgress] = []
    caller = asyncio.create_task(pool.load("a", on_progress=steps.append))
    await gate.arrived()
    await settle()
    caller.cancel()
    await asyncio.wait({caller})
    gate.open()
    await settle()
    assert steps == list(repository.script("a:1b").load_progress[:1])


@virtual_time
async def test_an_idle_model_is_loaded_anew_with_other_options(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a", LoadOptions(device="cpu"))
    model, done = await pool.load("a", LoadOptions(device="cuda"))
    assert (model.device, done) == ("cuda:0", True)
    assert repository.unloads == ["a:1b"]
    assert [options.device for _, options in repository.loads] == ["cpu", "cuda"]


@virtual_time
async def test_a_model_in_use_is_not_loaded_anew(pool: ModelPool, repository: FakeModelRepository) -> None:
    async with pool.lend("a", Task.TEXT):
        with pytest.raises(ModelBusy) as caught:
            await pool.load("a", LoadOptions(num_ctx=8192))
        assert caught.value.details == {"in_flight": 1}
        await pool.load("a", LoadOptions(num_ctx=512))
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_a_model_loaded_anew_stays_pinned(pool: ModelPool) -> None:
    await pool.load("a", LoadOptions(device="cpu"), pin=True)
    await pool.load("a", LoadOptions(device="cuda"))
    assert pool.residents()[0].pinned


@virtual_time
async def test_who_asks_for_other_options_gets_them_even_if_somebody_loads_first(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a", LoadOptions(device="cpu"))
    gate = repository.script("a:1b").unload.shut()
    with_gpu = asyncio.create_task(pool.load("a", LoadOptions(device="cuda")))
    await gate.arrived()
    with_more = asyncio.create_task(pool.load("a", LoadOptions(device="cpu", dtype="float16")))
    await settle()
    gate.open()
    results = await asyncio.gather(with_gpu, with_more, return_exceptions=True)
    for result, wanted in zip(results, [LoadOptions("cuda"), LoadOptions("cpu", "float16")], strict=True):
        assert isinstance(result, ModelBusy) or (isinstance(result, tuple) and result[0].satisfies(wanted))


@virtual_time
async def test_what_a_model_cannot_give_is_not_tried_again(pool: ModelPool, repository: FakeModelRepository) -> None:
    model, _ = await pool.load("a", LoadOptions(num_ctx=1_000_000))
    assert model.context_length == 4096
    assert await pool.load("a", LoadOptions(num_ctx=1_000_000)) == (model, False)
    assert repository.count_loads("a:1b") == 1


@virtual_time
async def test_options_that_are_left_open_come_from_the_settings(repository: FakeModelRepository) -> None:
    pool = ModelPool(
        repository, LoopClock(), RecordedEvents(), default_options=LoadOptions("cpu", "bfloat16", "int8", 64)
    )
    await pool.load("a", LoadOptions(dtype="float32"))
    assert repository.loads == [("a:1b", LoadOptions("cpu", "float32", "int8", 64))]


@virtual_time
async def test_a_device_that_is_not_there_is_an_error(pool: ModelPool) -> None:
    with pytest.raises(DeviceNotAvailable, match="cpu, cuda:0"):
        await pool.load("a", LoadOptions(device="cuda:3"))
    with pytest.raises(ModelNotFound):
        await pool.load("nobody")


# -- making room ----------------------------------------------------------------------------------------


@virtual_time
async def test_idle_models_leave_for_one_that_does_not_fit(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    repository.memory_budget = 2 * GIB
    await pool.load("a")
    await pool.load("b")
    await pool.load("c")
    assert "c:1b" in repository.in_memory
    assert {event.reason for event in events.of(ModelUnloaded)} == {"evicted"}
    assert repository.count_loads("c:1b") == 2


@virtual_time
async def test_models_in_use_or_pinned_do_not_leave_for_another(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 2 * GIB
    await pool.load("a", pin=True)
    async with pool.lend("b", Task.TEXT):
        with pytest.raises(InsufficientMemory) as caught:
            await pool.load("c")
    assert caught.value.details == {"needed_bytes": GIB, "available_bytes": 0}
    assert repository.in_memory == {"a:1b", "b:1b"}
    assert repository.count_loads("c:1b") == 2
    await pool.load("c")


@virtual_time
async def test_what_nobody_needs_is_given_back_before_the_second_try(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    repository.garbage_bytes = 1
    await pool.load("a")
    assert repository.trims == 1


@virtual_time
async def test_a_second_load_waits_for_the_room_that_the_first_one_makes(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 2 * GIB
    await pool.load("a")
    await pool.load("b")
    gates = [repository.script(model_id).unload.shut() for model_id in ("a:1b", "b:1b")]
    both = [asyncio.create_task(pool.load(name)) for name in ("c", "ear")]
    for gate in gates:
        await gate.arrived()
    await settle()
    for gate in gates:
        gate.open()
    await asyncio.gather(*both)
    assert repository.in_memory == {"c:1b", "ear:base"}


@virtual_time
async def test_a_load_does_not_wait_for_a_model_whose_holder_waits_for_that_load(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    async with pool.lend("a", Task.TEXT):
        unloading = asyncio.create_task(pool.unload("a", force=True))
        await settle()
        with pytest.raises(InsufficientMemory):
            await pool.load("b")
    await unloading


# -- giving back ----------------------------------------------------------------------------------------


@virtual_time
async def test_optimising_gives_back_garbage_and_leaves_models_alone(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a")
    repository.garbage_bytes = 700
    freed = await pool.optimize()
    assert freed.bytes_freed == 700
    assert freed.actions == ("gc: 700 bytes",)
    assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_optimising_hard_unloads_what_is_idle(pool: ModelPool, repository: FakeModelRepository) -> None:
    await pool.load("a")
    await pool.load("b", pin=True)
    async with pool.lend("c", Task.TEXT):
        freed = await pool.optimize(aggressive=True)
    assert freed.bytes_freed == GIB
    assert freed.actions == ("unloaded a:1b",)
    assert repository.in_memory == {"b:1b", "c:1b"}


@virtual_time
async def test_optimising_for_a_target_unloads_the_least_recently_used_until_it_is_reached(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 3 * GIB
    for name in ("c", "a", "b"):
        await pool.load(name)
        await asyncio.sleep(1.0)
    await pool.load("c")
    freed = await pool.optimize(target_free_bytes=2 * GIB)
    assert freed.actions == ("unloaded a:1b", "unloaded b:1b")
    assert (await pool.optimize(target_free_bytes=2 * GIB)).actions == ()
    assert (await pool.optimize(target_free_bytes=99 * GIB)).actions == ("unloaded c:1b",)


@virtual_time
async def test_calls_that_come_while_one_optimises_share_its_answer(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a")
    gate = repository.script("a:1b").unload.shut()
    calls = [asyncio.create_task(pool.optimize(aggressive=True)) for _ in range(3)]
    await gate.arrived()
    calls[0].cancel()
    await asyncio.wait({calls[0]})
    gate.open()
    first, second = await asyncio.gather(*calls[1:])
    assert first is second
    assert repository.trims == 1
    assert await pool.optimize() is not first
