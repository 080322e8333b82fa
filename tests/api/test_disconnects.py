"""A client that goes away takes its work with it: waiting, reading the prompt, writing; streaming or not."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.services import Limits
from application.events import WorkCancelled
from tests.api.world import SPEECH, TEXT, Served, World, serving, until
from tests.fakes.loaded import FakeLoadedModel


async def send(
    server: Served, body: dict[str, Any], accept: str = "*/*"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request over a bare connection, so that the test decides when that ends."""
    reader, writer = await server.connect()
    content = orjson.dumps(body)
    writer.write(
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (accept.encode(), len(content), content)
    )
    await writer.drain()
    return reader, writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.sleep(0)


@asynccontextmanager
async def closing_one(world: World, model_id: str) -> AsyncGenerator[None, None]:
    """Expects that the block ends exactly one generator early, and that nothing is left of it."""
    yield
    model = next(model for model in reversed(world.repository.models) if model.info.id == model_id)
    assert isinstance(model, FakeLoadedModel)
    await until(lambda: model.closed == 1 and world.pool.residents()[0].in_flight == 0)
    assert (model.opened, model.in_flight, model.waiting) == (1, 0, 0)
    assert len(world.events.of(WorkCancelled)) == 1


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_in_the_queue_ends_the_work(world: World, server: Served, is_stream: bool, accept: str) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    _, writer = await send(server, {"prompt": "one two", "stream": is_stream}, accept)
    await gate.arrived()
    async with closing_one(world, TEXT):
        await hang_up(writer)


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_leaving_between_two_chunks_ends_the_work(world: World, server: Served, accept: str) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    reader, writer = await send(server, {"prompt": "one two", "stream": True}, accept)
    await gate.arrived()
    assert b"one" in await reader.readuntil(b"one")
    async with closing_one(world, TEXT):
        await hang_up(writer)


async def test_leaving_a_plain_answer_in_the_middle_ends_the_work(world: World, server: Served) -> None:
    for body in ({"prompt": "one two"},):
        gate = world.repository.script(TEXT).text.between.shut()
        _, writer = await send(server, body)
        await gate.arrived()
        async with closing_one(world, TEXT):
            await hang_up(writer)


async def test_leaving_an_analysis_ends_the_work(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    _, writer = await send(server, {"query": "one two", "context": ["a"], "truncate": True})
    await gate.arrived()
    async with closing_one(world, TEXT):
        await hang_up(writer)


async def test_leaving_while_the_server_is_sending_ends_the_work(world: World) -> None:
    world.repository.script(TEXT).text.chunks = Endless("x" * 65536)
    watch = SendWatch(world.app())
    async with serving(watch) as server:
        reader, writer = await send(server, {"prompt": "one", "stream": True})
        await reader.readuntil(b"xxxx")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(watch.is_stuck)
        async with closing_one(world, TEXT):
            await hang_up(writer)


async def test_a_client_that_does_not_read_is_dropped(world: World) -> None:
    world.repository.script(TEXT).text.chunks = Endless("x" * 65536)
    async with serving(world.app(limits=Limits(stall_seconds=0.2))) as server:
        reader, writer = await send(server, {"prompt": "one", "stream": True})
        await reader.readuntil(b"xxxx")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with closing_one(world, TEXT):
            pass
        # The connection is gone too, and not waiting for its buffers to empty.
        await until(lambda: not server.open_connections)
        writer.transport.abort()


async def test_leaving_while_the_model_loads_lets_the_load_finish(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).load.shut()
    for is_stream in (True, False):
        _, writer = await send(server, {"prompt": "one", "stream": is_stream})
        await gate.arrived()
        await until(lambda: world.pool.residents()[0].in_flight == 1)
        await hang_up(writer)
        await until(lambda: world.pool.residents()[0].in_flight == 0)
    gate.open()
    response = await server.client.post("/generate", json={"prompt": "one"})
    assert response.json()["response"] == "one"
    assert world.repository.count_loads(TEXT) == 1


async def test_leaving_a_watched_load_lets_the_load_finish(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).load.shut()
    async with server.client.stream("POST", "/load-model?stream=true") as response:
        assert orjson.loads(await anext(response.aiter_lines()))["stage"] == "read"
        await gate.arrived()
    await until(lambda: world.pool.residents()[0].in_flight == 0)
    gate.open()
    assert (await server.client.post("/load-model")).json()["status"] == "already_loaded"
    assert world.repository.count_loads(TEXT) == 1


async def test_leaving_during_the_upload_leaves_no_file(world: World, server: Served) -> None:
    _, writer = await server.connect()
    writer.write(
        b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\nContent-Length: 100\r\n\r\nRIFF"
    )
    await until(lambda: world.uploads)
    await hang_up(writer)
    await until(lambda: not world.uploads)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_leaving_a_transcription_ends_the_work_and_removes_the_file(
    world: World, server: Served, is_stream: bool
) -> None:
    gate = world.repository.script(SPEECH).speech.between.shut()
    _, writer = await server.connect()
    target = b"/transcribe?stream=true" if is_stream else b"/transcribe"
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\nContent-Length: 4\r\n\r\nRIFF" % target
    )
    await gate.arrived()
    assert len(world.uploads) == 2
    async with closing_one(world, SPEECH):
        await hang_up(writer)
    await until(lambda: not world.uploads)


async def test_a_client_that_left_is_logged_as_499_and_not_as_an_error(
    world: World, server: Served, log: list[dict[str, Any]]
) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    _, writer = await send(server, {"prompt": "one"})
    await gate.arrived()
    await hang_up(writer)
    await until(lambda: any(record["event"] == "request" for record in log))
    [record] = [record for record in log if record["event"] == "request"]
    assert (record["status"], record["route"]) == (499, "/generate")
    assert {record["log_level"] for record in log} == {"info"}


async def test_neighbours_of_a_client_that_leaves_get_their_answers(world: World, server: Served) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    _, writer = await send(server, {"prompt": "one two", "stream": True})
    other = asyncio.create_task(server.client.post("/generate", json={"prompt": "three four"}))
    await gate.arrived(2)
    await hang_up(writer)
    gate.open()
    response: httpx2.Response = await other
    assert response.json()["response"] == "three four"


class Endless(list[str]):
    """So many chunks that nobody can have them buffered."""

    def __init__(self, chunk: str) -> None:
        super().__init__([chunk] * 4000)


class SendWatch:
    """An application whose sends can be seen to wait for the client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            self._since = asyncio.get_running_loop().time()
            await send(message)
            self._since = None

        await self._app(scope, receive, watched)

    def is_stuck(self) -> bool:
        return self._since is not None and asyncio.get_running_loop().time() - self._since > 0.05
