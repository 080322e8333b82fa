"""Text models that make way on a GPU wait in host memory, and write the same afterwards.

There is no GPU here, so weights move from ordinary memory to host memory and back, which is the same but for the
device. The last test is for a machine that has one.
"""

import logging
import shutil
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from domain.memory import MemoryUsage
from domain.model import LoadOptions
from models.budget import BudgetPolicy, Budgets
from models.catalog import Catalog
from models.parking import Berth, Parking
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from models.store import ModelStore
from models.text.engine import TextEngine
from models.text.kv_cache import KVCache
from models.text.loader import EngineOptions
from models.text.moving import HostRoom, bytes_of, distinct, move, move_to
from models.text.parked import ParkedWeights, WaitingPlace
from models.text_loads import TextLoads
from tests.models.running import load_tiny
from tests.models.talking import ask, collect_all, talking
from tests.models.tiny import save_tiny

CPU = torch.device("cpu")
BERTH = Berth("1" * 64, "cpu", "float32, none")
GIB = 1 << 30
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("gemma2", {}),
]


@pytest.fixture
def place() -> WaitingPlace:
    return WaitingPlace(Parking(), BERTH)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", talks=True)


async def written(engine: TextEngine) -> list[str]:
    greedy = await collect_all(engine.generate(ask(24)))
    sampled = await collect_all(engine.generate(ask(24, temperature=1.0, seed=11)))
    return [*greedy, *sampled]


async def parked_after_writing(directory: Path, place: WaitingPlace) -> list[str]:
    """What a model writes that then waits in `place`."""
    with talking(directory, place=place) as engine:
        texts = await written(engine)
        kept = await engine.close()
        assert kept is not None
        kept.park()
    return texts


# -- moving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_every_bit_comes_back_and_what_was_shared_still_is(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "model", family, **changes))
    model: Any = loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=False).items()}
    buffers = [buffer.clone() for buffer in model.buffers()]
    tensors, size = len(distinct(model)), bytes_of(model)
    parked = ParkedWeights(loaded, CPU)
    assert len({tensor.untyped_storage().data_ptr() for tensor in distinct(model).values()}) == 1
    parked.come_back()
    assert (len(distinct(model)), bytes_of(model)) == (tensors, size)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.stride() == before[name].stride()
    assert all(torch.equal(*pair) for pair in zip(model.buffers(), buffers, strict=True))
    if changes:
        assert model.lm_head.weight.data_ptr() == model.base_model.embed_tokens.weight.data_ptr()


def test_host_room_keeps_strides_and_dtypes() -> None:
    tensors = [torch.arange(6.0).view(2, 3).T, torch.tensor(True), torch.ones(3, dtype=torch.bfloat16), torch.empty(0)]
    room = HostRoom(sum(tensor.nbytes for tensor in tensors), len(tensors), CPU)
    copies = [room.copy(tensor) for tensor in tensors]
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)
        assert (tensor.dtype, tensor.stride()) == (copy.dtype, copy.stride())
    room.close()


def test_a_move_that_fails_half_way_changes_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    before = [parameter.data_ptr() for parameter in model.parameters()]
    moved: list[torch.Tensor] = []

    def fill_up(tensor: torch.Tensor) -> torch.Tensor:
        if len(moved) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        moved.append(tensor.clone())
        return moved[-1]

    with pytest.raises(torch.OutOfMemoryError):
        move(model, fill_up)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
    move_to(model, CPU)
    assert not {parameter.data_ptr() for parameter in model.parameters()}.intersection(before)


# -- engines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
async def test_a_model_that_waited_writes_the_same_and_reads_nothing_from_disk(
    family: str, changes: dict[str, Any], tmp_path: Path, place: WaitingPlace
) -> None:
    directory = save_tiny(tmp_path / "model", family, talks=family == "qwen2", **changes)
    texts = await parked_after_writing(directory, place)
    shutil.rmtree(directory)
    for _ in range(2):
        assert await parked_after_writing(directory, place) == texts
    assert place.parking.clear()


async def test_a_model_that_is_suspended_again_and_again_writes_on_and_reads_nothing_from_disk(
    directory: Path, place: WaitingPlace
) -> None:
    with ExitStack() as engines:
        engine = engines.enter_context(talking(directory, place=place))
        undisturbed = await collect_all(engine.generate(ask(60)))
        shutil.rmtree(directory)
        pieces: list[str] = []
        async with aclosing(engine.generate(ask(60))) as writing:
            for _ in range(3):
                pieces.append((await anext(writing)).text)
                kept = await engine.suspend()
                assert kept is not None
                kept.park()
                await engine.resume(engines.enter_context(talking(directory, place=place)))
            pieces += [chunk.text async for chunk in writing]
        assert ["".join(pieces)] == undisturbed


async def test_the_cache_does_not_wait_with_the_weights(directory: Path, place: WaitingPlace) -> None:
    with talking(directory, place=place) as engine:
        await written(engine)
        runner: Any = engine._runner
        cache: weakref.ref[KVCache] = weakref.ref(runner._cache)
        del runner
        kept = await engine.close()
        assert kept is not None
        assert cache() is None, "on a GPU it would hold memory that another model is to have"


async def test_weights_that_nobody_parks_are_gone(directory: Path, place: WaitingPlace) -> None:
    with talking(directory, place=place) as engine:
        assert await engine.close() is not None
    assert place.take() is None
    with talking(directory) as engine:
        assert await engine.close() is None


async def test_native_kernels_are_never_parked(directory: Path, place: WaitingPlace) -> None:
    with talking(directory, int8=True, place=place) as engine:
        if engine.info.kernel.startswith("native"):
            assert await engine.close() is None


class NoRoomLeft(ParkedWeights):
    """Weights whose GPU was filled by others meanwhile."""

    def come_back(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


async def test_weights_that_do_not_fit_any_more_are_read_from_disk_which_is_said(
    directory: Path, place: WaitingPlace, caplog: pytest.LogCaptureFixture
) -> None:
    with talking(directory) as engine:
        texts = await written(engine)
    place.parking.put(BERTH, NoRoomLeft(load_tiny(directory), CPU))
    with talking(directory, place=place) as engine:
        assert await written(engine) == texts
    assert "do not fit on cpu any more, and are read from disk" in caplog.text
    assert not place.parking.clear(), "not kept for another try"


# -- loads ----------------------------------------------------------------------------------------------


def loads(tmp_path: Path, available: int) -> TextLoads:
    """On a machine with so many bytes left."""
    budgets = Budgets(BudgetPolicy(min_free_bytes=0, max_usage=1.0), lambda: MemoryUsage(GIB, GIB, 16 * GIB, available))
    return TextLoads(ModelStore(tmp_path, Catalog.load(), {}), EngineOptions(), 0, budgets, lambda _: False)


@pytest.mark.parametrize(("available", "park", "waits"), [(GIB, True, True), (9, True, False), (GIB, False, False)])
async def test_weights_wait_only_when_they_make_way_and_the_host_has_room(
    available: int, park: bool, waits: bool, directory: Path, place: WaitingPlace, tmp_path: Path
) -> None:
    with talking(directory, place=place) as engine:
        await loads(tmp_path, available).unload(engine, park=park)
    assert place.parking.clear() is waits


async def test_a_host_that_runs_out_on_the_way_gives_the_model_up_and_says_so(
    directory: Path, place: WaitingPlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usages: Iterator[int] = iter([GIB])  # whoever looks first sees room
    budgets = Budgets(
        BudgetPolicy(min_free_bytes=0, max_usage=1.0),
        lambda: MemoryUsage(GIB, GIB, 16 * GIB, next(usages, 0)),
    )
    text = TextLoads(ModelStore(tmp_path, Catalog.load(), {}), EngineOptions(), 0, budgets, lambda _: False)
    with talking(directory, place=place) as engine:
        await text.unload(engine, park=True)
    assert not place.parking.clear()
    assert "is unloaded for good" in caplog.text


def repository_with_tiny(directory: Path) -> OptimizedModelRepository:
    store = ModelStore(directory.parent, Catalog.load(), {})
    policy = LoadPolicy(cpu_threads=2, budget=BudgetPolicy(min_free_bytes=0, max_usage=1.0))
    return OptimizedModelRepository(store, AudioDecoder(processes=1), policy)


async def test_a_model_on_the_cpu_is_not_parked(directory: Path) -> None:
    repository = repository_with_tiny(directory)
    options = LoadOptions(device="cpu", dtype="float32", quantization="none")
    engine = await repository.load(repository.find("model"), options, lambda _: None)
    await repository.unload(engine, park=True)
    assert "parked weights" not in await repository.trim()
    repository.close()


def test_weights_whose_files_were_replaced_are_others(directory: Path, tmp_path: Path, place: WaitingPlace) -> None:
    store = ModelStore(tmp_path, Catalog.load(), {})
    before = store.find("model").digest
    parking: Parking[ParkedWeights] = Parking()
    parking.put(Berth(before, "cpu", ""), ParkedWeights(load_tiny(directory), CPU))
    shutil.rmtree(directory)
    save_tiny(directory, seed=1)
    assert parking.take(Berth(store.find("model").digest, "cpu", "")) is None


@pytest.mark.gpu
async def test_a_model_on_a_gpu_waits_in_host_memory_and_writes_the_same_afterwards(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    repository = repository_with_tiny(directory)
    spec, options = repository.find("model"), LoadOptions(device="cuda:0")
    texts, used = [], []
    for _ in range(3):
        engine = await repository.load(spec, options, lambda _: None)
        assert isinstance(engine, TextEngine)
        texts.append(await written(engine))
        await repository.unload(engine, park=True)
        del engine
        used.append(torch.cuda.memory_allocated())
        (waiting,) = repository._text._parking._parked.values()
        tensors = list(distinct(waiting.loaded.model).values())  # type: ignore[arg-type]
        assert all(tensor.device.type == "cpu" for tensor in tensors)
        assert any(tensor.is_pinned() for tensor in tensors) or "cannot be page-locked" in caplog.text
    assert texts[0] == texts[1] == texts[2]
    assert used[0] == used[2]
    assert "parked weights" in await repository.trim()
    assert not any(tensor.is_pinned() for tensor in tensors)
    repository.close()


@pytest.mark.gpu
async def test_a_model_that_is_suspended_on_a_gpu_waits_in_host_memory_and_writes_on(directory: Path) -> None:
    repository = repository_with_tiny(directory)
    spec, options = repository.find("model"), LoadOptions(device="cuda:0")
    engine = await repository.load(spec, options, lambda _: None)
    assert isinstance(engine, TextEngine)
    undisturbed = await collect_all(engine.generate(ask(60)))
    async with aclosing(engine.generate(ask(60))) as writing:
        text = (await anext(writing)).text
        suspended = await repository.suspend(engine, park=True)
        assert repository._text._parking._parked
        await suspended.resume(options, lambda _: None)
        assert not repository._text._parking._parked
        text += "".join([chunk.text async for chunk in writing])
    assert [text] == undisturbed
    await repository.unload(engine)
    repository.close()
