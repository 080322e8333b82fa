"""Loads through the repository: how a model is wanted reaches its engine, and what may happen at once."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from domain.model import LoadOptions, Model, WeightFormat
from domain.prompt import RawText
from domain.repositories import LoadProgress
from models.budget import BudgetPolicy
from models.catalog import Catalog
from models.embedding.engine import EmbeddingEngine
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from models.store import ModelStore
from models.text import converted, weights
from models.text.engine import TextEngine
from models.text.weights import Precision
from tests.models.talking import ask, collect_all
from tests.models.tiny import save_tiny
from tests.models.tiny_encoder import save_encoder

CORES = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "tiny", talks=True)
    save_encoder(tmp_path / "encoder")
    return tmp_path


def opened(folder: Path) -> OptimizedModelRepository:
    store = ModelStore(folder, Catalog.load(), {})
    policy = LoadPolicy(cpu_threads=CORES, budget=BudgetPolicy(min_free_bytes=0, max_usage=1.0))
    return OptimizedModelRepository(store, AudioDecoder(processes=1), policy)


@asynccontextmanager
async def loaded(folder: Path, name: str, options: LoadOptions) -> AsyncGenerator[TextEngine | EmbeddingEngine, None]:
    repository = opened(folder)
    engine = await repository.load(repository.find(name), options, lambda _: None)
    assert isinstance(engine, TextEngine | EmbeddingEngine)
    try:
        yield engine
    finally:
        await repository.unload(engine)
        repository.close()


def figures(model: Model) -> tuple[str, str, str, int]:
    return model.device, model.dtype, model.quantization, model.context_length


async def test_a_text_model_is_as_it_was_wanted(folder: Path) -> None:
    wanted = LoadOptions("cpu", "float32", "none", num_ctx=128, num_parallel=3, threads=1)
    async with loaded(folder, "tiny", wanted) as engine:
        assert isinstance(engine, TextEngine)
        assert figures(engine.info) == ("cpu", "float32", "none", 128)
        assert engine._answering.scheduler.limits.max_running == 3
        assert await collect_all(engine.generate(ask(4)))
        assert await engine._thread.submit(torch.get_num_threads) == 1


async def test_what_is_left_open_is_the_machine_s_choice(folder: Path) -> None:
    async with loaded(folder, "tiny", LoadOptions()) as engine:
        assert isinstance(engine, TextEngine)
        assert engine.info.quantization == "int8"
        assert engine._answering.scheduler.limits.max_running == 16
        assert await collect_all(engine.generate(ask(4)))


async def test_an_encoder_is_as_it_was_wanted(folder: Path) -> None:
    async with loaded(folder, "encoder", LoadOptions("cpu", "bfloat16", num_ctx=16, threads=1)) as engine:
        assert isinstance(engine, EmbeddingEngine)
        assert figures(engine.info) == ("cpu", "bfloat16", "none", 16)
        await engine.embed(["w1 w2"])
        assert await engine._thread.submit(torch.get_num_threads) == 1


async def test_nobody_gets_more_threads_than_the_machine_leaves_the_server(folder: Path) -> None:
    async with loaded(folder, "encoder", LoadOptions("cpu", threads=1000)) as engine:
        await engine.embed(["w1 w2"])
        assert await engine._thread.submit(torch.get_num_threads) == CORES


async def test_others_load_while_a_model_is_converted_for_the_first_time(folder: Path) -> None:
    save_tiny(folder / "other", talks=True)
    repository = opened(folder)
    is_converting, may_go_on = threading.Event(), threading.Event()

    def hold(progress: LoadProgress) -> None:
        if progress.stage == "read" and progress.completed:
            is_converting.set()
            assert may_go_on.wait(20)

    converting = asyncio.create_task(repository.load(repository.find("tiny"), LoadOptions(), hold))
    assert await asyncio.to_thread(is_converting.wait, 20)
    encoder = await repository.load(repository.find("encoder"), LoadOptions(), lambda _: None)
    other = await repository.load(repository.find("other"), LoadOptions(), lambda _: None)
    assert not converting.done()
    may_go_on.set()
    engine = await converting
    assert isinstance(engine, TextEngine)
    assert isinstance(other, TextEngine)
    request = ask(4, RawText("one two"))
    assert await collect_all(engine.generate(request)) == await collect_all(other.generate(request))
    for model in (engine, other, encoder):
        await repository.unload(model)
    repository.close()


def test_two_who_convert_the_same_weights_at_once_make_one_copy(folder: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(progress: LoadProgress) -> None:
        if progress.completed == 1:
            both.wait()

    def convert() -> None:
        precision = Precision(int8=True, dtype=torch.float32)
        weights.convert(
            folder / "tiny", WeightFormat.SAFETENSORS, lambda layout: folder / "copies" / layout, precision, meet, lock
        )

    lock = threading.Lock()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(convert), pool.submit(convert)]:
            done.result()
    [copy] = (folder / "copies").iterdir()
    assert converted.is_intact(copy)
