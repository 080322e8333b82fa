"""Answers that come piece by piece, and work that ends when nobody waits for it any more.

Closing the generator of a use case is the only cancel signal. Starlette's own streaming response leaves its
generator open when the client goes away during a send, hence this module.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.error_shapes import problem, public
from api.errors import ClientLeft
from api.failures import log_failure
from api.relay import NothingYet, ReaderStalled, Relay, until_client_leaves
from api.request_ids import request_id_of

T = TypeVar("T")
Record = Mapping[str, Any]
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class Framing:
    """How records become bytes. `ping` None means that nothing may be sent while there is nothing to say."""

    media_type: str
    frame: Callable[[Record], bytes]
    end: bytes = b""
    ping: bytes | None = None


def _ndjson(record: Record) -> bytes:
    return orjson.dumps(record) + b"\n"


def _sse(record: Record) -> bytes:
    return b"data: " + orjson.dumps(record) + b"\n\n"


def _named_sse(record: Record) -> bytes:
    return b"event: " + str(record["type"]).encode() + b"\n" + _sse(record)


NDJSON = Framing("application/x-ndjson", _ndjson)
SSE = Framing("text/event-stream; charset=utf-8", _sse, b"data: [DONE]\n\n", b": ping\n\n")
# The name of each event is its record's `type`, which is always a word of ours.
NAMED_SSE = Framing("text/event-stream; charset=utf-8", _named_sse, b"", b": ping\n\n")


def framing_for(request: Request) -> Framing:
    """NDJSON, or SSE for whoever asks for it."""
    return SSE if "text/event-stream" in request.headers.get("accept", "").lower() else NDJSON


def native_error_record(error: Exception, request_id: str) -> Record:
    """The record that ends a native stream that failed: the problem document, and `error` for NDJSON clients."""
    document = problem(public(error), request_id)
    return {"error": document["detail"], **document}


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which ends if the client goes away (ClientLeft) or the request is cancelled first."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(until_client_leaves(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            # What the wait for the client raises, if anything, is why the work has to end.
            gone.result()
            raise ClientLeft()
        return task.result()
    finally:
        await _cancel(task, gone)


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class StreamedAnswer(Response):
    """Sends what a relay hands over. An error after the headers is one last record, without the end marker."""

    def __init__(
        self,
        relay: Relay[Record],
        first: Sequence[Record],
        framing: Framing,
        *,
        headers: Mapping[str, str],
        ping_seconds: float,
        stall_seconds: float,
        error_record: Callable[[Exception, str], Record],
    ) -> None:
        super().__init__(headers={**STREAM_HEADERS, **headers, "content-type": framing.media_type})
        del self.headers["content-length"]
        self._relay = relay
        self._first = first
        self._framing = framing
        self._ping_seconds = ping_seconds
        self._stall_seconds = stall_seconds
        self._error_record = error_record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (the relay listens)
        """Send the headers and then every frame."""
        try:
            await self._relay.run(self._send_all(request_id_of(scope), send))
        except ReaderStalled:
            # Without this the transport would keep its buffers until the kernel gives up.
            scope["state"].get("abort", lambda: None)()
        finally:
            await self._relay.close()

    async def _send_all(self, request_id: str, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        framing = self._framing
        silence = framing.ping or b""
        patience = None if framing.ping is None else self._ping_seconds
        frames = self._framed(self._first) or silence
        while True:
            await self._send(send, {"type": "http.response.body", "body": frames, "more_body": True})
            try:
                frames = self._framed(await self._relay.take(patience))
            except NothingYet:
                frames = silence
            except StopAsyncIteration:
                frames = framing.end
                break
            except ClientLeft:
                raise
            except Exception as error:
                log_failure(error, request_id)
                frames = framing.frame(self._error_record(error, request_id))
                break
        await self._send(send, {"type": "http.response.body", "body": frames, "more_body": False})

    def _framed(self, records: Sequence[Record]) -> bytes:
        return b"".join(map(self._framing.frame, records))

    async def _send(self, send: Send, message: Message) -> None:
        await self._relay.send(send, message, self._stall_seconds)


async def streamed(
    request: Request,
    records: AsyncGenerator[Record, None],
    framing: Framing,
    *,
    ping_seconds: float,
    stall_seconds: float,
    headers: Callable[[], Mapping[str, str]] = dict,
    error_record: Callable[[Exception, str], Record] = native_error_record,
) -> Response:
    """A stream of `records` that begins with the first of them: what fails before it has its real status.

    Only framings with a ping give up that wait, after `ping_seconds`, and begin with a ping. `headers` is
    asked when the response begins.
    """
    relay = Relay(records, request.receive)
    first: Sequence[Record] = ()
    try:
        first = await relay.take(None if framing.ping is None else ping_seconds)
    except NothingYet:
        pass
    except BaseException:
        await relay.close()
        raise
    return StreamedAnswer(
        relay,
        first,
        framing,
        headers=headers(),
        ping_seconds=ping_seconds,
        stall_seconds=stall_seconds,
        error_record=error_record,
    )
