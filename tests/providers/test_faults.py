"""Providers that fail, hang, drip, lie and vanish, over real sockets."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from application.circuit_breaker import BreakerPolicy, Circuit
from domain.errors import (
    BadResponse,
    DeadlineExceeded,
    IngleError,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderRefusesKey,
    ProviderUnavailable,
    RateLimited,
    RequestCancelled,
)
from domain.generation import FinishReason, GenerationRequest, TextChunk
from domain.model import Model
from domain.prompt import Chat, Message, Role
from infrastructure.clock import SystemClock
from infrastructure.providers.connection import Connection
from infrastructure.providers.entry import ProvidedModel, ProviderEntry
from infrastructure.providers.text_model import ProvidedTextModel
from tests.fakes.clock import FakeClock
from tests.providers.stub import (
    DONE,
    HELLO,
    KEY,
    PATIENT,
    QUICK,
    SSE,
    Reply,
    StubProvider,
    delta,
    event,
    failing,
    stub_provider,
    usage,
)

ASK = GenerationRequest(Chat((Message(Role.USER, "hi"),)))


def model_of(entry: ProviderEntry, clock: Any = None) -> ProvidedTextModel:
    provided = ProvidedModel("far:1b", "far-away", entry)
    info = Model(provided.spec).loaded(
        device="remote", dtype="auto", quantization="auto", context_length=0, memory_bytes=0, load_time_ms=0
    )
    return ProvidedTextModel(provided, info, Connection(entry, clock or SystemClock(), jitter=lambda: 0.5))


async def collect(model: ProvidedTextModel, request: GenerationRequest = ASK) -> list[TextChunk]:
    async with aclosing(model.generate(request)) as chunks:
        return [chunk async for chunk in chunks]


async def text_from(stub: StubProvider, **changes: Any) -> str:
    return "".join(chunk.text for chunk in await collect(model_of(stub.entry(**changes))))


async def failure_from(stub: StubProvider, **changes: Any) -> IngleError:
    with pytest.raises(IngleError) as caught:
        await text_from(stub, **changes)
    assert KEY not in str(caught.value)
    return caught.value


async def test_an_answer_comes_piece_by_piece_with_its_figures() -> None:
    async with stub_provider(HELLO) as stub:
        chunks = await collect(model_of(stub.entry()), replace(ASK, request_id="r-1"))
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    finish = chunks[-1].finish
    assert finish is not None
    assert (finish.reason, finish.usage.prompt_tokens, finish.usage.completion_tokens) == (FinishReason.STOP, 7, 2)
    [request] = stub.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-request-id"] == "r-1"


async def test_a_refused_connection_is_tried_again_and_then_told() -> None:
    async with stub_provider(HELLO) as stub:
        entry = stub.entry()
    with pytest.raises(ProviderUnavailable) as caught:
        await collect(model_of(entry))
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with stub_provider(failing(status), failing(status), HELLO) as stub:
        assert await text_from(stub) == "Hello"
        assert len(stub.requests) == 3


async def test_three_failures_are_told_and_the_next_request_may_succeed() -> None:
    async with stub_provider(failing(500), failing(500), failing(500), HELLO) as stub:
        failure = await failure_from(stub)
        assert isinstance(failure, ProviderError)
        assert await text_from(stub) == "Hello"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, ProviderError),
        (400, InvalidRequest),
        (401, ProviderRefusesKey),
        (403, ProviderRefusesKey),
        (404, ProviderError),
        (422, InvalidRequest),
        (501, ProviderError),
    ],
)
async def test_what_will_not_pass_is_asked_once(status: int, kind: type[IngleError]) -> None:
    async with stub_provider(failing(status, location="http://127.0.0.1:1/")) as stub:
        assert isinstance(await failure_from(stub), kind)
        assert len(stub.requests) == 1


async def test_what_a_provider_says_is_cleaned_before_it_is_told() -> None:
    said = f"bad\x1b[31m key {KEY} for Bearer abc at http://me:pw@host/ \u202e" + "x" * 5000
    async with stub_provider(failing(400, said)) as stub:
        message = str(await failure_from(stub))
    assert message.isprintable()
    assert "abc" not in message
    assert "pw" not in message
    assert len(message) < 400


async def test_the_provider_says_when_to_come_back() -> None:
    async with stub_provider(failing(429, retry_after="0.05"), HELLO) as stub:
        began = time.monotonic()
        assert await text_from(stub) == "Hello"
        assert time.monotonic() - began >= 0.05


async def test_a_longer_pause_than_we_wait_for_is_told_to_our_caller() -> None:
    async with stub_provider(failing(429, retry_after="900")) as stub:
        failure = await failure_from(stub)
        assert len(stub.requests) == 1
    assert isinstance(failure, RateLimited)
    assert failure.retry_after_seconds == 900


async def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    async with stub_provider(failing(503, retry_after="30")) as stub:
        began = time.monotonic()
        with pytest.raises(Overloaded):
            await collect(model_of(stub.entry()), replace(ASK, timeout_seconds=5.0))
        assert time.monotonic() - began < 4.5


async def test_silence_before_the_first_byte_ends_in_time_and_is_not_asked_twice() -> None:
    async with stub_provider(Reply(0, {}, (None,))) as stub:
        assert isinstance(await failure_from(stub, patience=QUICK), DeadlineExceeded)
        assert len(stub.requests) == 1
        await asyncio.wait_for(stub.gone.wait(), 20)


async def test_silence_after_the_head_is_silence_before_the_first_byte() -> None:
    async with stub_provider(Reply(headers=SSE, pieces=(None,))) as stub:
        assert isinstance(await failure_from(stub, patience=QUICK), DeadlineExceeded)


async def test_silence_in_the_middle_ends_the_answer_and_is_not_asked_again() -> None:
    async with stub_provider(Reply(headers=SSE, pieces=(delta("Hel"), None))) as stub:
        failure = await failure_from(stub, patience=QUICK)
        assert isinstance(failure, ProviderError)
        assert "sent nothing" in str(failure)
        assert len(stub.requests) == 1


async def test_a_slow_answer_that_keeps_coming_is_heard_to_its_end() -> None:
    pieces: list[bytes | float | None] = []
    for piece in (delta("Hel"), b": still here\n\n", delta("lo"), delta(finish="stop"), DONE):
        pieces += [0.3, piece]
    async with stub_provider(Reply(headers=SSE, pieces=tuple(pieces))) as stub:
        assert await text_from(stub, patience=replace(PATIENT, idle=1.0)) == "Hello"


async def test_a_drip_without_end_is_cut_at_the_deadline_and_ends_with_length() -> None:
    drip = tuple(piece for _ in range(400) for piece in (delta("x"), 0.05))
    async with stub_provider(Reply(headers=SSE, pieces=drip)) as stub:
        began = time.monotonic()
        chunks = await collect(model_of(stub.entry()), replace(ASK, timeout_seconds=1.0))
        assert time.monotonic() - began < 10
    finish = chunks[-1].finish
    assert finish is not None
    assert finish.reason is FinishReason.LENGTH
    assert finish.usage.completion_tokens == len(chunks) - 1 > 0


async def test_a_deadline_before_anything_came_is_told() -> None:
    async with stub_provider(Reply(0, {}, (None,))) as stub:
        with pytest.raises(DeadlineExceeded):
            await collect(model_of(stub.entry()), replace(ASK, timeout_seconds=0.1))


@pytest.mark.parametrize(
    "pieces",
    [
        (delta("Hel"),),
        (delta("Hel"), DONE),
        (delta("Hel"), event(b"not json")),
        (delta("Hel"), event([1])),
        (delta("Hel"), event({"choices": 3})),
        (delta("Hel"), event({"choices": [3]})),
        (delta("Hel"), delta("x", index=1)),
        (delta("Hel"), delta(content=["a"])),
        (delta("Hel"), b"data: " + b"x" * (2 << 20)),
    ],
    ids=["cut", "no end", "no json", "no object", "no choices", "no choice", "one too many", "no text", "long line"],
)
async def test_an_answer_that_cannot_be_read_is_told_as_such(pieces: tuple[bytes, ...]) -> None:
    async with stub_provider(Reply(headers=SSE, pieces=pieces)) as stub:
        assert isinstance(await failure_from(stub), BadResponse)
        assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(headers={"content-type": "text/html"}, pieces=(b"<p>hello",)),
        Reply(headers={**SSE, "content-encoding": "gzip"}, pieces=(b"\x1f\x8b",)),
        Reply(headers=SSE, pieces=(event(b"{]"),)),
        Reply(headers=SSE),
        Reply(headers=SSE, pieces=(DONE,)),
    ],
    ids=["a web page", "compressed", "garbage", "nothing", "done at once"],
)
async def test_an_answer_that_is_none_is_told_as_such(reply: Reply) -> None:
    async with stub_provider(reply) as stub:
        assert isinstance(await failure_from(stub), BadResponse)


async def test_a_connection_that_breaks_before_the_first_byte_is_made_again() -> None:
    async with stub_provider(Reply(0), HELLO) as stub:
        assert await text_from(stub) == "Hello"


async def test_a_connection_that_breaks_in_the_middle_is_not_made_again() -> None:
    cut = Reply(
        headers={**SSE, "transfer-encoding": "chunked"}, pieces=(b"%x\r\n%b\r\n" % (len(delta("H")), delta("H")),)
    )
    async with stub_provider(cut) as stub:
        assert isinstance(await failure_from(stub), ProviderError)
        assert len(stub.requests) == 1


async def test_an_error_inside_the_stream_is_told() -> None:
    async with stub_provider(
        Reply(headers=SSE, pieces=(delta("H"), event({"error": {"message": f"{KEY} out"}})))
    ) as stub:
        failure = await failure_from(stub)
    assert isinstance(failure, ProviderError)
    assert str(failure) == "the provider failed: *** out"


async def test_a_filtered_answer_is_told() -> None:
    async with stub_provider(Reply(headers=SSE, pieces=(delta(finish="content_filter"), DONE))) as stub:
        assert "content filter" in str(await failure_from(stub))


async def test_a_dead_provider_is_not_asked_any_more_until_it_has_had_time() -> None:
    clock = FakeClock()
    policy = BreakerPolicy(failures=2, cooldown=30.0)
    replies = [failing(500), failing(500), HELLO]
    async with stub_provider(*replies) as stub:
        entry = stub.entry(breaker=policy, patience=replace(PATIENT, tries=1))
        model = model_of(entry, clock)
        for _ in range(2):
            with pytest.raises(ProviderError):
                await collect(model)
        began = time.monotonic()
        with pytest.raises(ProviderUnavailable) as caught:
            await collect(model)
        assert time.monotonic() - began < 1
        assert caught.value.retry_after_seconds == 30.0
        assert len(stub.requests) == 2
        clock.advance(30.0)
        assert (await collect(model))[0].text == "Hel"
        assert model._connection.circuit is Circuit.CLOSED


async def test_a_hundred_calls_to_a_failing_provider_are_at_most_130_for_it() -> None:
    async with stub_provider(failing(429)) as stub:
        model = model_of(stub.entry())
        for _ in range(100):
            with pytest.raises(RateLimited):
                await collect(model)
        assert 100 <= len(stub.requests) <= 130


async def test_closing_the_answer_closes_the_connection() -> None:
    async with stub_provider(Reply(headers=SSE, pieces=(delta("H"), None))) as stub:
        answer = model_of(stub.entry()).generate(ASK)
        assert (await anext(answer)).text == "H"
        await answer.aclose()
        await asyncio.wait_for(stub.gone.wait(), 20)


async def test_abort_ends_every_answer_and_is_for_good() -> None:
    async with stub_provider(Reply(headers=SSE, pieces=(delta("H"), None))) as stub:
        model = model_of(stub.entry())
        answer = model.generate(ASK)
        await anext(answer)
        waiting = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        model.abort()
        with pytest.raises(RequestCancelled):
            await waiting
        with pytest.raises(RequestCancelled):
            await collect(model)
        await asyncio.wait_for(stub.gone.wait(), 20)


async def test_more_than_may_be_under_way_is_refused() -> None:
    async with stub_provider(Reply(headers=SSE, pieces=(delta("H"), None))) as stub:
        model = model_of(stub.entry(max_in_flight=1))
        first = model.generate(ASK)
        await anext(first)
        with pytest.raises(Overloaded):
            await collect(model)
        await first.aclose()


async def test_cookies_are_neither_kept_nor_sent() -> None:
    reply = Reply(headers={**SSE, "set-cookie": "a=b"}, pieces=HELLO.pieces)
    async with stub_provider(reply) as stub:
        model = model_of(stub.entry())
        await collect(model)
        await collect(model)
        assert ["cookie" in request.headers for request in stub.requests] == [False, False]


async def test_the_usage_of_several_answers_is_shared_between_them() -> None:
    pieces = (delta("a"), delta("b", index=1), delta(finish="stop", index=1), delta(finish="length"), usage(4, 7), DONE)
    async with stub_provider(Reply(headers=SSE, pieces=pieces)) as stub:
        chunks = await collect(model_of(stub.entry()), replace(ASK, n=2))
    ends = {chunk.index: chunk.finish for chunk in chunks if chunk.finish is not None}
    assert [ends[index].usage.prompt_tokens for index in (0, 1)] == [4, 4]
    assert sum(finish.usage.completion_tokens for finish in ends.values()) == 7
    assert [ends[index].reason for index in (0, 1)] == [FinishReason.LENGTH, FinishReason.STOP]


def test_the_key_is_in_no_representation() -> None:
    entry = ProviderEntry("p", "http://127.0.0.1/v1", KEY)
    assert KEY not in repr(entry) + repr(ProvidedModel("a", "b", entry)) + str(vars(Connection(entry, SystemClock())))
