"""Keeping a model out of memory while its files are taken away."""

import asyncio

import pytest

from application.model_pool import ModelPool
from domain.errors import ModelBusy, ModelLoadFailed, ModelLoading, ModelNotFound, ModelPinned, ServerDraining
from domain.model import Task
from tests.fakes.models import FakeModelRepository
from tests.fakes.virtual_time import settle, virtual_time


async def use(pool: ModelPool, name: str = "a") -> str:
    async with pool.lend(name, Task.TEXT) as model:
        return model.info.id


def forget(repository: FakeModelRepository, model_id: str) -> None:
    """What a deletion does to the disk."""
    repository.specs = [spec for spec in repository.specs if spec.id != model_id]


@virtual_time
async def test_an_idle_model_leaves_memory_before_its_files_do(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    await use(pool)
    async with pool.removing("A") as spec:
        assert spec.id == "a:1b"
        assert repository.in_memory == set()


@virtual_time
async def test_a_model_in_use_or_on_its_way_or_pinned_keeps_its_files(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    async with pool.lend("a", Task.TEXT):
        with pytest.raises(ModelBusy):
            async with pool.removing("a"):
                pytest.fail("it is lent")
    gate = repository.script("b:1b").load.shut()
    caller = asyncio.create_task(use(pool, "b"))
    await gate.arrived()
    caller.cancel()
    await asyncio.wait({caller})
    with pytest.raises(ModelBusy):
        async with pool.removing("b"):
            pytest.fail("it is being read")
    gate.open()
    await pool.load("c", pin=True)
    with pytest.raises(ModelPinned):
        async with pool.removing("c"):
            pytest.fail("it is pinned")
    await use(pool)
    assert repository.in_memory == {"a:1b", "b:1b", "c:1b"}


@virtual_time
async def test_who_wants_a_model_while_it_is_removed_waits_and_learns_that_it_is_gone(
    pool: ModelPool, repository: FakeModelRepository
) -> None:
    async with pool.removing("a"):
        callers = [asyncio.create_task(use(pool)), asyncio.create_task(pool.load("a"))]
        await settle()
        assert repository.in_memory == set()
        forget(repository, "a:1b")
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [ModelNotFound, ModelNotFound]


@virtual_time
async def test_a_removal_that_fails_gives_the_model_back(pool: ModelPool) -> None:
    with pytest.raises(OSError, match="disk"):
        async with pool.removing("a"):
            caller = asyncio.create_task(use(pool))
            await settle()
            raise OSError("the disk says no")
    assert await caller == "a:1b"


@virtual_time
async def test_a_removal_that_drags_on_keeps_nobody_waiting_for_ever(pool: ModelPool) -> None:
    async with pool.removing("a"):
        with pytest.raises(ModelLoading, match="files"):
            await use(pool)


@virtual_time
async def test_the_second_who_removes_a_model_finds_nothing(pool: ModelPool, repository: FakeModelRepository) -> None:
    async def remove() -> None:
        async with pool.removing("a"):
            await settle()
            forget(repository, "a:1b")

    results = await asyncio.gather(remove(), remove(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ModelNotFound]


@virtual_time
async def test_a_removed_model_s_last_failure_is_forgotten(pool: ModelPool, repository: FakeModelRepository) -> None:
    repository.script("a:1b").load_failures.append(ModelLoadFailed("damaged"))
    with pytest.raises(ModelLoadFailed):
        await use(pool)
    async with pool.removing("a"):
        pass
    assert pool.failure_of("a:1b") is None


@virtual_time
async def test_a_pool_that_is_closed_lets_nobody_remove(pool: ModelPool) -> None:
    await pool.close()
    with pytest.raises(ServerDraining):
        async with pool.removing("a"):
            pytest.fail("the pool is closed")
