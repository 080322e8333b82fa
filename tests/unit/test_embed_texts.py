import asyncio

import pytest

from application.embed_texts import EmbedTexts
from application.events import Event, TextsEmbedded, WorkCancelled
from application.model_pool import ModelPool
from domain.errors import (
    ContextLengthExceeded,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    UnsupportedCapability,
)
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import EmbeddingScript, FakeModelRepository, embedding_spec
from tests.fakes.text_model import DIMENSIONS
from tests.fakes.virtual_time import settle, virtual_time

CANCELLED = WorkCancelled("vector:small", "r-1")


@pytest.fixture
def repository(repository: FakeModelRepository) -> FakeModelRepository:
    """The usual models, and one that embeds."""
    repository.specs.append(embedding_spec())
    return repository


@pytest.fixture
def embed(pool: ModelPool, events: RecordedEvents) -> EmbedTexts:
    return EmbedTexts(pool, LoopClock(), events)


@pytest.fixture
def script(repository: FakeModelRepository) -> EmbeddingScript:
    return repository.script("vector:small").embedding


def work_events(events: RecordedEvents) -> list[Event]:
    return [event for event in events if isinstance(event, TextsEmbedded | WorkCancelled)]


def in_flight(pool: ModelPool) -> int:
    return sum(resident.in_flight for resident in pool.residents())


@virtual_time
async def test_texts_come_back_as_vectors_with_the_model_that_made_them(
    embed: EmbedTexts, events: RecordedEvents
) -> None:
    answer = await embed.embed("vector", ["one two", "three"], request_id="r-1")
    assert (answer.model.id, answer.dimensions) == ("vector:small", 16)
    assert len(answer.embeddings.vectors) == 2
    assert answer.embeddings.token_counts == (4, 3)
    assert work_events(events) == [TextsEmbedded("vector:small", "r-1", 2, 7, 0.0)]


@virtual_time
async def test_what_was_asked_reaches_the_model_as_it_is(embed: EmbedTexts, repository: FakeModelRepository) -> None:
    await embed.embed("vector", ["one", (1, 2)], truncate=False, dimensions=3, normalize=False)
    (call,) = repository.embedding("vector:small").calls
    assert (call.texts, call.truncate, call.dimensions, call.normalize) == (("one", (1, 2)), False, 3, False)


@virtual_time
async def test_the_wait_for_the_load_and_the_work_are_told_apart(
    embed: EmbedTexts, repository: FakeModelRepository, script: EmbeddingScript, events: RecordedEvents
) -> None:
    load = repository.script("vector:small").load.shut()
    work = script.before.shut()
    answering = asyncio.create_task(embed.embed("vector", ["one"]))
    await load.arrived()
    await asyncio.sleep(7.0)
    load.open()
    await work.arrived()
    await asyncio.sleep(2.0)
    work.open()
    answer = await answering
    assert answer.load_seconds == pytest.approx(7.0)
    assert answer.embed_seconds == pytest.approx(2.0)
    assert [event.seconds for event in events.of(TextsEmbedded)] == [pytest.approx(2.0)]


@pytest.mark.parametrize(("texts", "dimensions"), [([], None), ([""], None), (["one"], 0)])
@virtual_time
async def test_what_cannot_be_embedded_is_refused_before_anything_is_loaded(
    embed: EmbedTexts, repository: FakeModelRepository, texts: list[str], dimensions: int | None
) -> None:
    with pytest.raises(InvalidRequest):
        await embed.embed("vector", texts, dimensions=dimensions)
    assert repository.loads == []


@virtual_time
async def test_cancelling_ends_the_work_and_the_lease(
    embed: EmbedTexts, pool: ModelPool, script: EmbeddingScript, events: RecordedEvents
) -> None:
    gate = script.before.shut()
    answering = asyncio.create_task(embed.embed("vector", ["one"], request_id="r-1"))
    await gate.arrived()
    assert in_flight(pool) == 1
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert in_flight(pool) == 0
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_an_unload_by_force_ends_the_work(
    embed: EmbedTexts, pool: ModelPool, script: EmbeddingScript, events: RecordedEvents
) -> None:
    gate = script.before.shut()
    answering = asyncio.create_task(embed.embed("vector", ["one"], request_id="r-1"))
    await gate.arrived()
    await pool.unload("vector", force=True)
    with pytest.raises(RequestCancelled):
        await answering
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_a_text_model_embeds_too(embed: EmbedTexts, pool: ModelPool, events: RecordedEvents) -> None:
    answer = await embed.embed("a", ["one two", "three"], request_id="r-1")
    assert (len(answer.embeddings.vectors), answer.dimensions) == (2, DIMENSIONS)
    assert answer.embeddings.token_counts == (2, 1)
    assert work_events(events) == [TextsEmbedded(answer.model.id, "r-1", 2, 3, 0.0)]
    assert in_flight(pool) == 0


@virtual_time
async def test_failures_pass_through_and_end_the_lease(
    embed: EmbedTexts, pool: ModelPool, script: EmbeddingScript, events: RecordedEvents
) -> None:
    with pytest.raises(ModelNotFound):
        await embed.embed("nobody", ["one"])
    with pytest.raises(UnsupportedCapability):
        await embed.embed("ear", ["one"])
    with pytest.raises(ContextLengthExceeded):
        await embed.embed("vector", ["one " * 300], truncate=False)
    script.error = GenerationFailed("no such tensor")
    with pytest.raises(GenerationFailed, match="no such tensor"):
        await embed.embed("vector", ["one"])
    assert in_flight(pool) == 0
    assert work_events(events) == []


@virtual_time
async def test_keep_alive_of_a_request_reaches_the_pool(embed: EmbedTexts, pool: ModelPool) -> None:
    await embed.embed("vector", ["one"], keep_alive=10.0)
    await asyncio.sleep(9.0)
    assert len(pool.residents()) == 1
    await asyncio.sleep(2.0)
    await settle()
    assert not pool.residents()
