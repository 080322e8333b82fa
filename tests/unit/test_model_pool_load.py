"""Loading on purpose, with options; and memory: making room, giving back."""

import asyncio
import itertools

import pytest

from application.events import DeviceSwapped, ModelUnloaded
from application.model_pool import ModelPool
from domain.errors import DeviceNotAvailable, InsufficientMemory, ModelBusy, ModelNotFound, Overloaded
from domain.memory import MemoryNeed
from domain.model import LoadOptions, ModelSpec, Task
from domain.repositories import LoadProgress
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import GIB, FakeModelRepository, speech_spec, text_spec
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
    assert repository.in_memory == {"b:1b", "c:1b"}
    assert [(event.model_id, event.reason) for event in events.of(ModelUnloaded)] == [("a:1b", "evicted")]
    assert repository.loads_over_budget == 0


@virtual_time
async def test_who_makes_way_on_a_gpu_may_wait_near_and_who_is_unloaded_or_expires_does_not(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 2 * GIB
    repository.where = "cuda:0"
    await pool.load("a", keep_alive=1.0)
    await pool.load("ear", keep_alive=10.0)
    await pool.load("b")
    assert (repository.unloads, repository.parked) == (["a:1b"], ["a:1b"])
    await pool.unload("b")
    await asyncio.sleep(11.0)
    assert (repository.in_memory, repository.parked) == (set(), ["a:1b"])


@virtual_time
async def test_a_swap_is_told_with_its_time(
    pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    repository.memory_budget = GIB
    await pool.load("a")
    assert pool.last_swap is None
    repository.script("b:1b").load.shut()
    loading = asyncio.create_task(pool.load("b"))
    await asyncio.sleep(3.0)
    repository.script("b:1b").load.open()
    await loading
    (swap,) = events.of(DeviceSwapped)
    assert (swap.device, swap.evicted, swap.loaded, swap.bytes_freed) == ("memory", ("a:1b",), "b:1b", GIB)
    assert swap.seconds == pytest.approx(3.0)
    assert (swap.left, swap.came) == ("text", "text")
    assert pool.last_swap == swap
    await asyncio.sleep(2.0)
    standing = pool.standing_of("memory")
    assert (standing.holder, standing.held_seconds, standing.swaps_total) == ("text", pytest.approx(2.0), 1)
    assert pool.standing_of("cuda:7").holder is None


@virtual_time
async def test_a_model_that_can_never_fit_is_refused_at_once_and_nobody_leaves(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 2 * GIB
    repository.specs.append(text_spec("big:9b", size_bytes=3 * GIB))
    await pool.load("a")
    with pytest.raises(InsufficientMemory, match="smaller model, or load it with quantization int8") as caught:
        await pool.load("big", LoadOptions(quantization="none"))
    assert caught.value.details == {"needed_bytes": 3 * GIB, "available_bytes": 2 * GIB}
    assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_what_would_help_beside_a_pinned_model_is_its_unload(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    await pool.load("a", pin=True)
    with pytest.raises(InsufficientMemory, match="unload 'a:1b'"):
        await pool.load("b")
    assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_a_load_waits_for_busy_models_and_then_for_no_longer_than_the_hold(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 2 * GIB
    await pool.load("a", pin=True)
    started = asyncio.get_running_loop().time()
    async with pool.lend("b", Task.TEXT):
        with pytest.raises(Overloaded, match="memory that 'b:1b' is using") as caught:
            await pool.load("c")
        assert caught.value.retry_after_seconds > 0
    assert asyncio.get_running_loop().time() - started == pytest.approx(30.0, abs=1.5)
    assert repository.in_memory == {"a:1b", "b:1b"}
    assert pool.failure_of("c:1b") is None
    await pool.load("c")
    assert repository.in_memory == {"a:1b", "c:1b"}


@virtual_time
async def test_who_waits_for_memory_gets_it_when_the_last_user_goes(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    async with pool.lend("a", Task.TEXT):
        waiting = asyncio.create_task(pool.load("b"))
        await asyncio.sleep(5.0)
        assert not waiting.done()
    await waiting
    assert asyncio.get_running_loop().time() < 5.5


@virtual_time
async def test_two_models_that_do_not_fit_together_take_turns_and_neither_starves(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    served: list[str] = []

    async def ask_without_end(name: str, offset: float) -> None:
        await asyncio.sleep(offset)
        while asyncio.get_running_loop().time() < 300.0:
            async with pool.lend(name, Task.TEXT):
                served.append(name)
                await asyncio.sleep(4.0)

    await asyncio.gather(*(ask_without_end(name, offset) for name in ("a", "b") for offset in (0.0, 1.0, 2.0)))
    assert min(served.count("a"), served.count("b")) > 40
    swaps = sum(one != other for one, other in itertools.pairwise(served))
    assert swaps < len(served) / 2, "who waits together is served together"


@virtual_time
async def test_newcomers_to_a_model_that_gives_way_are_let_in_when_nobody_waits_any_more(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    async with pool.lend("a", Task.TEXT):
        waiting = asyncio.create_task(pool.load("b"))
        await settle()
        assert pool.residents()[0].held_back
        newcomer = asyncio.create_task(pool.load("a"))
        await asyncio.sleep(10.0)
        assert not newcomer.done()
        waiting.cancel()
        await newcomer
    assert repository.count_loads("b:1b") == 0


@virtual_time
async def test_garbage_goes_before_a_model_does(pool: ModelPool, repository: FakeModelRepository) -> None:
    repository.memory_budget = 2 * GIB
    await pool.load("a")
    repository.garbage_bytes = 1
    await pool.load("b")
    assert repository.in_memory == {"a:1b", "b:1b"}


@virtual_time
async def test_a_load_that_runs_out_of_memory_all_the_same_is_tried_again_without_the_idle(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a")
    script = repository.script("b:1b")
    script.load_failures.append(InsufficientMemory("a page too few"))
    await pool.load("b")
    assert repository.in_memory == {"b:1b"}
    assert repository.trims == 1
    script = repository.script("c:1b")
    script.load_failures.extend([InsufficientMemory("a page too few")] * 2)
    async with pool.lend("b", Task.TEXT):
        with pytest.raises(InsufficientMemory, match="choose a smaller model"):
            await pool.load("c")
    assert repository.in_memory == {"b:1b"}
    assert repository.count_loads("c:1b") == 2


@virtual_time
async def test_a_load_whose_room_others_took_waits_for_it_again(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 3 * GIB
    gate = repository.script("c:1b").load.shut()
    repository.script("c:1b").load_failures.append(InsufficientMemory("a page too few"))
    loading = asyncio.create_task(pool.load("c"))
    await gate.arrived()
    async with pool.lend("b", Task.TEXT):
        repository.others_hold(2 * GIB)
        gate.open()
        await asyncio.sleep(5.0)
        assert not loading.done()
    model, _ = await loading
    assert model.is_loaded
    assert repository.in_memory == {"c:1b"}


@virtual_time
async def test_a_load_that_loses_its_room_each_time_is_told_who_has_it(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 3 * GIB
    script = repository.script("c:1b")
    script.load_failures.extend([InsufficientMemory("a page too few")] * 2)
    async with pool.lend("b", Task.TEXT):
        gate = script.load.shut()
        loading = asyncio.create_task(pool.load("c"))
        await gate.arrived()
        gate.let_through()
        await settle()
        await gate.arrived()
        repository.others_hold(2 * GIB)
        gate.let_through()
        with pytest.raises(Overloaded, match="memory that 'b:1b' is using"):
            await loading


@virtual_time
async def test_loads_that_need_room_come_in_one_after_the_other(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = 2 * GIB
    await pool.load("a")
    await pool.load("b")
    await asyncio.gather(pool.load("c"), pool.load("ear"))
    assert repository.in_memory == {"c:1b", "ear:base"}
    assert repository.loads_over_budget == 0


@virtual_time
async def test_a_model_whose_holder_waits_for_another_load_blocks_it_no_longer_than_the_hold(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    repository.memory_budget = GIB
    async with pool.lend("a", Task.TEXT):
        unloading = asyncio.create_task(pool.unload("a", force=True))
        await settle()
        with pytest.raises(Overloaded):
            await pool.load("b")
    await unloading


@virtual_time
async def test_options_that_cannot_be_had_do_not_cost_the_model_that_is_there(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a", LoadOptions(device="cpu"))
    with pytest.raises(DeviceNotAvailable):
        await pool.load("a", LoadOptions(device="cuda:7"))
    assert repository.unloads == []


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


@virtual_time
async def test_speech_models_go_where_the_operator_wants_speech() -> None:
    repository = FakeModelRepository(speech_spec(), text_spec(), gpus=2)
    pool = ModelPool(
        repository,
        LoopClock(),
        RecordedEvents(),
        default_options=LoadOptions(device="cuda:0"),
        speech_options=LoadOptions(device="cuda:1"),
    )
    for name in ("ear", "tiny"):
        await pool.load(name)
    assert [(name, options.device) for name, options in repository.loads] == [
        ("ear:base", "cuda:1"), ("tiny:1b", "cuda:0"),
    ]  # fmt: skip
    await pool.close()


class FallingRepository(FakeModelRepository):
    """Its GPU fails: what was to go there goes to the CPU."""

    def need(self, spec: ModelSpec, options: LoadOptions) -> MemoryNeed:
        return MemoryNeed("cpu" if self.loads else "cuda:0", spec.size_bytes)


@virtual_time
async def test_a_model_counts_where_it_went_and_not_where_it_was_to_go() -> None:
    pool = ModelPool(FallingRepository(speech_spec()), LoopClock(), RecordedEvents())
    await pool.load("ear")
    [resident] = pool.residents()
    assert (resident.need.device, resident.bytes_taken) == ("cpu", None)
    await pool.close()
