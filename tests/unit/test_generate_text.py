import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from application.events import Event, GenerationFinished, WorkCancelled
from application.generate_text import GenerateText, GenerationStarted
from application.model_pool import ModelPool
from domain.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    GenerationFailed,
    ModelNotFound,
    RequestCancelled,
    UnsupportedCapability,
)
from domain.generation import FinishReason, GenerationRequest, SamplingParams, TextChunk, Usage
from domain.prompt import Chat, Message, RawText, Role
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.models import FakeModelRepository, TextScript
from tests.fakes.virtual_time import settle, virtual_time

REQUEST = GenerationRequest(Chat((Message(Role.USER, "Say it again"),)), request_id="r-1")
CANCELLED = WorkCancelled("a:1b", "r-1")


@pytest.fixture
def generate(pool: ModelPool, events: RecordedEvents) -> GenerateText:
    return GenerateText(pool, LoopClock(), events)


@pytest.fixture
def script(repository: FakeModelRepository) -> TextScript:
    return repository.script("a:1b").text


def work_events(events: RecordedEvents) -> list[Event]:
    return [event for event in events if isinstance(event, GenerationFinished | WorkCancelled)]


def in_flight(pool: ModelPool) -> int:
    return sum(resident.in_flight for resident in pool.residents())


async def drain(stream: AsyncGenerator[GenerationStarted | TextChunk, None]) -> list[GenerationStarted | TextChunk]:
    async with aclosing(stream) as items:
        return [item async for item in items]


# -- the answer -----------------------------------------------------------------------------------------


@virtual_time
async def test_a_stream_begins_with_the_model_and_ends_with_the_figures(
    generate: GenerateText, events: RecordedEvents
) -> None:
    started, *chunks = await drain(generate.stream("a", REQUEST))
    assert isinstance(started, GenerationStarted)
    assert (started.model.id, started.model.is_loaded, started.queue_position) == ("a:1b", True, 0)
    texts = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
    assert [chunk.text for chunk in texts] == ["Say", " it", " again"]
    assert [chunk.finish is None for chunk in texts] == [True, True, False]
    assert texts[-1].finish is not None
    finish = texts[-1].finish
    assert (finish.reason, finish.usage) == (FinishReason.STOP, Usage(3, 3))
    assert work_events(events) == [GenerationFinished("a:1b", "r-1", finish.reason, finish.usage, finish.timings)]


@virtual_time
async def test_the_whole_answer_is_the_stream_put_together(generate: GenerateText, script: TextScript) -> None:
    script.chunks = ["Olá", ", ", "mundo", "!"]
    answer = await generate.complete("a", REQUEST)
    assert answer.text == "Olá, mundo!"
    assert answer.started.model.id == "a:1b"
    assert answer.finish.usage.completion_tokens == 4


@virtual_time
async def test_a_limit_of_tokens_ends_the_answer_with_length(generate: GenerateText) -> None:
    answer = await generate.complete("a", replace(REQUEST, sampling=SamplingParams(max_tokens=2)))
    assert (answer.text, answer.finish.reason) == ("Say it", FinishReason.LENGTH)


@virtual_time
async def test_an_answer_may_be_empty(generate: GenerateText) -> None:
    answer = await generate.complete("a", replace(REQUEST, sampling=SamplingParams(max_tokens=0)))
    assert (answer.text, answer.finish.usage.completion_tokens) == ("", 0)


@virtual_time
async def test_the_request_reaches_the_model_as_it_is(generate: GenerateText, repository: FakeModelRepository) -> None:
    await generate.complete("a", REQUEST)
    assert repository.text("a:1b").requests == [REQUEST]


@virtual_time
async def test_the_wait_for_the_load_is_a_part_of_the_time(
    generate: GenerateText, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    gate = repository.script("a:1b").load.shut()
    answering = asyncio.create_task(generate.complete("a", REQUEST))
    await gate.arrived()
    await asyncio.sleep(7.0)
    gate.open()
    answer = await answering
    assert answer.started.load_seconds == pytest.approx(7.0)
    assert answer.finish.timings.load == pytest.approx(7.0)
    assert events.of(GenerationFinished)[0].timings == answer.finish.timings
    assert (await generate.complete("a", REQUEST)).finish.timings.load == 0.0


@virtual_time
async def test_the_position_in_the_queue_is_that_on_arrival(generate: GenerateText, script: TextScript) -> None:
    script.before_first.shut()
    first = asyncio.create_task(generate.complete("a", REQUEST))
    await script.before_first.arrived()
    async with aclosing(generate.stream("a", REQUEST)) as stream:
        started = await anext(stream)
        assert isinstance(started, GenerationStarted)
        assert started.queue_position == 1
    script.before_first.open()
    await first


@virtual_time
async def test_keep_alive_of_a_request_reaches_the_pool(
    generate: GenerateText, repository: FakeModelRepository
) -> None:
    await generate.complete("a", REQUEST, keep_alive=0.0)
    await settle()
    assert repository.unloads == ["a:1b"]


@virtual_time
async def test_a_prompt_s_tokens_are_counted_against_the_loaded_context(
    generate: GenerateText, pool: ModelPool
) -> None:
    assert await generate.count_tokens("a", RawText("one two three")) == (3, 4096)
    assert in_flight(pool) == 0


# -- the caller leaves ----------------------------------------------------------------------------------


@virtual_time
async def test_closing_the_stream_ends_the_work_and_the_lease(
    generate: GenerateText, pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    stream = generate.stream("a", REQUEST)
    await anext(stream)
    await anext(stream)
    assert (in_flight(pool), repository.text("a:1b").in_flight) == (1, 1)
    await stream.aclose()
    assert (in_flight(pool), repository.text("a:1b").in_flight) == (0, 0)
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_closing_the_stream_before_the_first_chunk_starts_no_work(
    generate: GenerateText, pool: ModelPool, repository: FakeModelRepository, events: RecordedEvents
) -> None:
    stream = generate.stream("a", REQUEST)
    await anext(stream)
    await stream.aclose()
    assert in_flight(pool) == 0
    assert repository.text("a:1b").opened == 0
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_closing_the_stream_after_its_end_is_no_cancellation(
    generate: GenerateText, events: RecordedEvents, pool: ModelPool
) -> None:
    stream = generate.stream("a", replace(REQUEST, sampling=SamplingParams(max_tokens=1)))
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert in_flight(pool) == 0
    assert [type(event) for event in work_events(events)] == [GenerationFinished]


@virtual_time
@pytest.mark.parametrize("gate_name", ["before_first", "between"])
async def test_cancelling_whoever_awaits_the_answer_ends_the_work(
    generate: GenerateText,
    script: TextScript,
    pool: ModelPool,
    repository: FakeModelRepository,
    events: RecordedEvents,
    gate_name: str,
) -> None:
    gate = getattr(script, gate_name).shut()
    answering = asyncio.create_task(generate.complete("a", REQUEST))
    await gate.arrived()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    model = repository.text("a:1b")
    assert (in_flight(pool), model.opened, model.closed, model.waiting) == (0, 1, 1, 0)
    assert work_events(events) == [CANCELLED]


@virtual_time
async def test_a_caller_that_leaves_during_the_load_leaves_nothing_behind(
    generate: GenerateText, pool: ModelPool, repository: FakeModelRepository
) -> None:
    gate = repository.script("a:1b").load.shut()
    answering = asyncio.create_task(generate.complete("a", REQUEST))
    await gate.arrived()
    answering.cancel()
    await asyncio.wait({answering})
    assert in_flight(pool) == 0
    gate.open()
    await settle()
    assert repository.text("a:1b").opened == 0


@virtual_time
async def test_work_that_somebody_else_cancels_is_told_as_cancelled(
    generate: GenerateText, script: TextScript, pool: ModelPool, events: RecordedEvents
) -> None:
    script.between.shut()
    answering = asyncio.create_task(generate.complete("a", REQUEST))
    await script.between.arrived()
    await pool.unload("a", force=True)
    with pytest.raises(RequestCancelled):
        await answering
    assert work_events(events) == [CANCELLED]


# -- what goes wrong ------------------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_an_error_of_the_model_reaches_the_caller_and_ends_the_lease(
    generate: GenerateText, script: TextScript, pool: ModelPool, events: RecordedEvents, after: int
) -> None:
    script.error, script.error_after = GenerationFailed("NaN"), after
    received = []
    with pytest.raises(GenerationFailed, match="NaN"):
        async with aclosing(generate.stream("a", REQUEST)) as stream:
            async for item in stream:
                received.append(item)
    assert len(received) == 1 + after
    assert in_flight(pool) == 0
    assert work_events(events) == []


@virtual_time
async def test_one_failing_request_leaves_the_others_alone(generate: GenerateText, script: TextScript) -> None:
    script.between.shut()
    good = asyncio.create_task(generate.complete("a", REQUEST))
    await script.between.arrived()
    with pytest.raises(ContextLengthExceeded):
        await generate.complete("a", GenerationRequest(RawText("x " * 5000)))
    script.between.open()
    assert (await good).text == "Say it again"


@virtual_time
async def test_a_deadline_before_the_first_token_is_an_error(generate: GenerateText, script: TextScript) -> None:
    script.before_first.shut()
    with pytest.raises(DeadlineExceeded):
        await generate.complete("a", replace(REQUEST, timeout_seconds=3.0))


@virtual_time
async def test_a_deadline_after_it_ends_the_answer_with_what_there_is(
    generate: GenerateText, script: TextScript
) -> None:
    script.between.shut()
    answer = await generate.complete("a", replace(REQUEST, timeout_seconds=3.0))
    assert (answer.text, answer.finish.reason) == ("Say", FinishReason.LENGTH)
    assert answer.finish.timings.decode == pytest.approx(3.0)


@virtual_time
async def test_a_model_that_cannot_write_is_refused_before_anything_is_loaded(
    generate: GenerateText, repository: FakeModelRepository
) -> None:
    with pytest.raises(UnsupportedCapability):
        await generate.complete("ear", REQUEST)
    with pytest.raises(ModelNotFound):
        await generate.complete("nobody", REQUEST)
    assert repository.loads == []
