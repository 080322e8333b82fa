"""Streams of /generate: the first record decides the status, the last ends it, pings fill the silence."""

import asyncio
from typing import Any

import httpx2
import orjson
import pytest

from api.services import Limits
from domain.errors import GenerationFailed, ModelLoadFailed, RequestCancelled
from tests.api.world import TEXT, Served, World, in_process, serving

SSE = {"accept": "text/event-stream"}


def lines(response: httpx2.Response) -> list[dict[str, Any]]:
    """The records of an NDJSON body: every line is one, and none is blank."""
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.content.endswith(b"\n")
    return [orjson.loads(line) for line in response.content[:-1].split(b"\n")]


def events(response: httpx2.Response) -> list[str]:
    """The data of an SSE body."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    return [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]


async def test_a_stream_joins_to_the_answer_in_one_piece(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.chunks = ["Olá", ",\n", "\u2028 ", "🦜", ' "mundo"']
    whole = (await client.post("/generate", json={"prompt": "a", "seed": 5})).json()
    response = await client.post("/generate", json={"prompt": "a", "seed": 5, "stream": True})
    records = lines(response)
    assert "".join(record["response"] for record in records) == whole["response"]
    assert [record["done"] for record in records] == [False] * 5 + [True]
    last = records[-1]
    assert last["response"] == ""
    volatile = ("created_at", "request_id", "response", "timings")
    changing = {name for name in last if name in volatile or name.endswith("_duration")}
    assert {k: v for k, v in last.items() if k not in changing} == {k: v for k, v in whole.items() if k not in changing}
    assert last["request_id"] == response.headers["x-request-id"]
    assert set(records[0]) == {"model", "created_at", "response", "done"}


async def test_the_same_records_come_as_events(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.chunks = ["one", " two"]
    response = await client.post("/generate", json={"prompt": "a", "stream": True}, headers=SSE)
    *records, end = events(response)
    assert end == "[DONE]"
    assert [orjson.loads(record)["response"] for record in records] == ["one", " two", ""]
    assert orjson.loads(records[-1])["done"] is True


@pytest.mark.parametrize("headers", [{}, SSE])
async def test_a_stream_may_not_be_stored_or_buffered(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post("/generate", json={"prompt": "a", "stream": True}, headers=headers)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-queue-position"] == "0"
    assert response.headers["x-queue-wait-ms"] == "0"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("headers", [{}, SSE])
async def test_text_that_looks_like_frames_stays_inside_one(
    world: World, client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    hostile = "\n\nevent: x\ndata: {}\n\ndata: [DONE]\n\n"
    world.repository.script(TEXT).text.chunks = [hostile, "end"]
    response = await client.post("/generate", json={"prompt": "a", "stream": True}, headers=headers)
    texts = (
        [orjson.loads(data)["response"] for data in events(response)[:-1]]
        if headers
        else [record["response"] for record in lines(response)]
    )
    assert texts == [hostile, "end", ""]


@pytest.mark.parametrize("headers", [{}, SSE])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"prompt": "word " * 5000}, 400, "context_length_exceeded"),
        ({"context": [99_999]}, 422, "validation_error"),
    ],
)
async def test_what_fails_before_the_first_chunk_has_its_real_status(
    client: httpx2.AsyncClient, headers: dict[str, str], body: dict[str, Any], status: int, code: str
) -> None:
    response = await client.post("/generate", json={"prompt": "a", "stream": True, **body}, headers=headers)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("headers", [{}, SSE])
async def test_a_failure_after_the_headers_is_one_last_record(
    world: World, client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.error, script.error_after = ["one", " two"], GenerationFailed("at '/srv/x/y.bin'"), 1
    response = await client.post("/generate", json={"prompt": "a", "stream": True}, headers=headers)
    assert response.status_code == 200
    records = [orjson.loads(data) for data in events(response)] if headers else lines(response)
    assert [record.get("response") for record in records] == ["one", None]
    assert records[-1]["error"] == "at 'y.bin'"
    assert (records[-1]["status"], records[-1]["code"]) == (500, "generation_failed")
    assert "[DONE]" not in response.text


async def test_a_bug_after_the_headers_says_nothing_either(
    world: World, client: httpx2.AsyncClient, log: list[dict[str, Any]]
) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.error, script.error_after = ["one", " two"], RuntimeError("canary"), 1
    response = await client.post("/generate", json={"prompt": "a", "stream": True})
    assert "canary" not in response.text
    assert lines(response)[-1]["code"] == "internal_error"
    assert any(record["event"] == "unhandled error" for record in log)


async def test_a_forced_unload_ends_a_stream_with_499_in_it(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    streaming = asyncio.create_task(server.client.post("/generate", json={"prompt": "one two", "stream": True}))
    await gate.arrived()
    response = await server.client.post("/unload-model", json={"model_id": TEXT, "force": True})
    assert response.json()["success"] is True
    assert lines(await streaming)[-1]["code"] == RequestCancelled.code


async def test_nothing_is_sent_before_the_first_chunk(world: World) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    async with serving(world.app(limits=Limits(ping_seconds=0.001))) as server:
        reader, writer = await server.connect()
        body = b'{"prompt": "one", "stream": true}'
        head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await gate.arrived()
        first_bytes = asyncio.create_task(reader.read(12))
        assert await asyncio.wait({first_bytes}, timeout=0.05) == (set(), {first_bytes})
        gate.open()
        assert await first_bytes == b"HTTP/1.1 200"
        writer.close()


async def test_events_are_filled_with_pings_while_there_is_nothing_to_say(world: World) -> None:
    before, between = world.repository.script(TEXT).text.before_first.shut(), world.repository.script(TEXT).text.between
    between.shut()
    app = world.app(limits=Limits(ping_seconds=0.02))
    async with (
        serving(app) as server,
        server.client.stream("POST", "/generate", json={"prompt": "one two", "stream": True}, headers=SSE) as response,
    ):
        assert response.status_code == 200
        assert response.headers["x-queue-position"] == "0"
        pieces = response.aiter_lines()
        assert await anext(pieces) == ": ping"
        assert [await anext(pieces), await anext(pieces)] == ["", ": ping"]
        before.open()
        seen = [line async for line in until(pieces, "one")]
        assert set(seen) <= {"", ": ping"}
        assert [await anext(pieces), await anext(pieces)] == ["", ": ping"]
        between.open()
        rest = [line async for line in pieces if line and line != ": ping"]
        assert orjson.loads(rest[0].removeprefix("data: "))["response"] == " two"
        assert rest[-1] == "data: [DONE]"


async def until(pieces: Any, text: str) -> Any:
    """The lines before the one that holds `text`."""
    async for line in pieces:
        if text in line:
            return
        yield line


async def test_lines_are_never_filled_with_pings(world: World) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    app = world.app(limits=Limits(ping_seconds=0.001))
    async with in_process(app) as client:
        streaming = asyncio.create_task(client.post("/generate", json={"prompt": "one two", "stream": True}))
        await gate.arrived()
        assert await asyncio.wait({streaming}, timeout=0.05) == (set(), {streaming})
        gate.open()
        assert [record["response"] for record in lines(await streaming)] == ["one", " two", ""]


async def test_a_failure_after_a_ping_is_an_event(world: World) -> None:
    script = world.repository.script(TEXT).text
    script.before_first.shut()
    script.error = GenerationFailed("no")
    async with (
        serving(world.app(limits=Limits(ping_seconds=0.01))) as server,
        server.client.stream("POST", "/generate", json={"prompt": "one", "stream": True}, headers=SSE) as response,
    ):
        pieces = response.aiter_lines()
        assert await anext(pieces) == ": ping"
        script.before_first.open()
        rest = [line async for line in pieces if line and line != ": ping"]
        assert len(rest) == 1
        assert orjson.loads(rest[0].removeprefix("data: "))["code"] == "generation_failed"


async def test_a_load_can_be_watched(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/load-model", json={"stream": True})
    *steps, last = lines(response)
    assert steps == [
        {"status": "loading", "stage": "read", "completed": 1, "total": 2},
        {"status": "loading", "stage": "weights", "completed": 2, "total": 2},
    ]
    assert (last["success"], last["status"], last["resolved_model"]) == (True, "loaded", TEXT)
    response = await client.post("/load-model?stream=true", headers=SSE)
    assert [orjson.loads(event)["status"] for event in events(response)[:-1]] == ["already_loaded"]


async def test_a_load_that_fails_ends_its_stream_with_the_reason(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).load_failures.append(ModelLoadFailed("weights.gguf is damaged"))
    records = lines(await client.post("/load-model", json={"stream": True}))
    assert (records[-1]["code"], records[-1]["error"]) == ("model_load_failed", "weights.gguf is damaged")
