"""Changing what is on disk while others use it."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from application.events import ModelDeleted, ModelMade, ModelPulled, ModelUnloaded
from application.manage_models import ManageModels
from application.model_pool import ModelPool
from domain.errors import InsufficientStorage, InvalidRequest, ModelBusy, ModelExists, ModelNotFound, ModelPinned
from domain.library import NewModel, PullStage
from domain.model import Task, WeightFormat
from domain.preset import Preset
from tests.fakes.events import RecordedEvents
from tests.fakes.library import FakeModelLibrary
from tests.fakes.models import FakeModelRepository, text_spec
from tests.fakes.virtual_time import settle, virtual_time


@pytest.fixture
def library(repository: FakeModelRepository) -> FakeModelLibrary:
    return FakeModelLibrary(repository, text_spec("new:1b"))


@pytest.fixture
def manage(pool: ModelPool, library: FakeModelLibrary, events: RecordedEvents) -> ManageModels:
    return ManageModels(pool, library, events)


def names(repository: FakeModelRepository) -> list[str]:
    return [spec.id for spec in repository.installed()]


@virtual_time
async def test_an_idle_model_leaves_memory_before_it_leaves_the_disk(
    manage: ManageModels, pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    await pool.load("a:1b")
    assert (await manage.delete("a")).id == "a:1b"
    assert "a:1b" not in names(repository)
    assert repository.in_memory == set()
    assert [type(event) for event in events][-2:] == [ModelUnloaded, ModelDeleted]
    with pytest.raises(ModelNotFound):
        await manage.delete("a:1b")


@virtual_time
async def test_a_model_in_use_or_pinned_is_neither_deleted_nor_replaced(
    manage: ManageModels, pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    await manage.copy("a:1b", "twin")
    async with pool.lend("twin", Task.TEXT):
        with pytest.raises(ModelBusy):
            await manage.delete("twin")
        with pytest.raises(ModelBusy):
            await manage.create(NewModel("twin", "b:1b"))
    await pool.load("b:1b", pin=True)
    with pytest.raises(ModelPinned):
        await manage.delete("b:1b")
    assert {"twin", "b:1b"} <= set(names(repository))
    assert events.of(ModelDeleted) == []


@virtual_time
async def test_a_change_that_began_is_finished_although_its_caller_left(
    manage: ManageModels, library: FakeModelLibrary, repository: FakeModelRepository
) -> None:
    library.gate.shut()
    caller = asyncio.create_task(manage.delete("a:1b"))
    await library.gate.arrived()
    caller.cancel()
    await asyncio.wait({caller})
    library.gate.open()
    await settle()
    assert "a:1b" not in names(repository)


@virtual_time
async def test_a_change_that_fails_leaves_the_model_usable(
    manage: ManageModels, pool: ModelPool, library: FakeModelLibrary, events: RecordedEvents
) -> None:
    library.failures.append(InsufficientStorage())
    with pytest.raises(InsufficientStorage):
        await manage.delete("a:1b")
    async with pool.lend("a:1b", Task.TEXT) as model:
        assert model.info.id == "a:1b"
    assert events.of(ModelDeleted) == []


@virtual_time
async def test_a_model_may_be_copied_while_it_is_in_use(
    manage: ManageModels, pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    async with pool.lend("a:1b", Task.TEXT):
        assert (await manage.copy("a:1b", "twin")).id == "twin"
        made = await manage.create(NewModel("pirate", "twin", Preset(system="Arr.")))
    assert made.preset == Preset(system="Arr.", parent="twin")
    assert events.of(ModelMade) == [ModelMade("twin", "a:1b"), ModelMade("pirate", "twin")]
    with pytest.raises(ModelExists):
        await manage.copy("twin", "b:1b")
    assert names(repository)[-2:] == ["twin", "pirate"]


@virtual_time
async def test_the_short_name_of_another_model_does_not_take_that_one_out_of_memory(
    manage: ManageModels, pool: ModelPool, repository: FakeModelRepository
) -> None:
    await pool.load("a:1b")
    await manage.copy("b:1b", "a")
    assert repository.in_memory == {"a:1b"}


@virtual_time
async def test_a_pull_is_a_stream_that_closing_ends(
    manage: ManageModels, library: FakeModelLibrary, events: RecordedEvents
) -> None:
    library.gate.shut()
    async with aclosing(manage.pull("new:1b")) as steps:
        assert (await anext(steps)).stage is PullStage.MANIFEST
        assert library.open_pulls == 1
    assert library.open_pulls == 0
    assert events.of(ModelPulled) == []
    library.gate.open()
    assert [step.stage async for step in manage.pull("new:1b")][-1] is PullStage.DONE
    assert events.of(ModelPulled) == [ModelPulled("new:1b")]


@virtual_time
async def test_an_unknown_name_fails_before_the_first_step_of_a_pull(manage: ManageModels) -> None:
    with pytest.raises(ModelNotFound):
        await anext(manage.pull("nosuch"))


@virtual_time
async def test_another_servers_model_is_neither_deleted_nor_replaced(
    manage: ManageModels, repository: FakeModelRepository
) -> None:
    repository.specs.append(replace(text_spec("cloud:big"), format=WeightFormat.REMOTE))
    with pytest.raises(InvalidRequest, match="lies with another server"):
        await manage.delete("cloud:big")
    with pytest.raises(ModelExists, match="another server's model"):
        await manage.copy("a:1b", "Cloud:big")
    assert names(repository)[-1] == "cloud:big"
