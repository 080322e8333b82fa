"""A provider that does what the test wants, byte by byte, over real sockets."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from infrastructure.providers.entry import Patience, ProviderEntry

KEY = "sk-canary-0123456789"
PATIENT = Patience(connect=10.0, first_byte=10.0, idle=10.0, total=30.0, tries=3, backoff=0.001)
# For those who wait for silence to be noticed, and nobody else: a busy machine pauses as long.
QUICK = replace(PATIENT, first_byte=0.3, idle=0.3)


@dataclass
class Request:
    """What came in; a body that is no JSON is its bytes."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """What goes out. `pieces` are sent as they stand, a number among them waits so many seconds, None for ever.

    `length` None frames nothing: the end of the connection is the end of the answer; chunked answers end with
    `closing`, or are cut off where that is empty.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: tuple[bytes | float | None, ...] = ()


Answer = Callable[[Request], Reply]


@dataclass
class StubProvider:
    """Answers each request with the next of `replies`, and the last one for ever."""

    replies: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def entry(self, **changes: Any) -> ProviderEntry:
        """This provider as it would be configured."""
        values = {"name": "stub", "base_url": f"http://127.0.0.1:{self.port}/v1", "key": KEY, "patience": PATIENT}
        return ProviderEntry(**{**values, **changes})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            self.requests.append(await _read(reader))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            await self._send(reply, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()

    async def _send(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {reply.status} Whatever", "connection: close"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        body_follows = reply.status != 0
        if body_follows:
            writer.write("\r\n".join([*head, "", ""]).encode())
        for piece in reply.pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            elif await _left_within(reader, piece):
                self.gone.set()
                return


async def _left_within(reader: asyncio.StreamReader, seconds: float | None) -> bool:
    """Wait for so long, or for ever; whether the client has gone meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(1) == b""
    except TimeoutError:
        return False


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    is_json = headers.get("content-type") == "application/json"
    return Request(method, path, headers, json.loads(raw) if is_json else raw or None)


@asynccontextmanager
async def stub_provider(*replies: Reply) -> AsyncGenerator[StubProvider, None]:
    """A provider that listens while the block runs."""
    stub = StubProvider(list(replies))
    under_way: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        task = asyncio.create_task(stub.serve(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        return task

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


# -- replies -------------------------------------------------------------------------------------------

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


def event(document: object) -> bytes:
    """One event of a stream."""
    return b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"


def delta(text: str = "", *, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    """A chunk of a chat with one choice."""
    said = {**({"content": text} if text else {}), **more}
    return event({"choices": [{"index": index, "delta": said, "finish_reason": finish}]})


def usage(prompt: int, completion: int, **more: Any) -> bytes:
    """The chunk behind all choices."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more}})


DONE = event(b"[DONE]")
HELLO = Reply(headers=SSE, pieces=(delta("Hel"), delta("lo"), delta(finish="stop"), usage(7, 2), DONE))


def failing(status: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's shape."""
    body = json.dumps({"error": {"message": message}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {**JSON, **named}, (body,))


def whole(document: object) -> Reply:
    """A JSON answer."""
    return Reply(headers=JSON, pieces=(json.dumps(document).encode(),))
