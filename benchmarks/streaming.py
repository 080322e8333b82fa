"""A streamed HTTP answer with the time of every piece, taken apart after it is over.

While answers arrive a client only notes bytes and the time: it shares the cores with the server that it measures.
"""

import asyncio
import json
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit


class RequestFailed(Exception):
    """The server refused, or broke off; the message has its words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Times are seconds of the monotonic clock; `arrivals` has one for each piece of text.

    Token counts are the server's own, None where it tells none.
    """

    sent: float
    ended: float
    arrivals: tuple[float, ...]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def first(self) -> float:
        """Seconds from sending to the first text."""
        return self.arrivals[0] - self.sent

    @property
    def tokens(self) -> int:
        """Tokens of the answer; a server that does not count them is taken to send each by itself."""
        return len(self.arrivals) if self.completion_tokens is None else self.completion_tokens


def chat_request(base_url: str, body: dict[str, Any]) -> bytes:
    """The bytes that ask for a streamed chat completion, on a connection that closes after it."""
    parts = urlsplit(base_url)
    payload = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST {parts.path.rstrip('/')}/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Accept: text/event-stream\r\n"
        f"Authorization: Bearer none\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + payload


class Exchange(asyncio.Protocol):
    """One request on one connection: sent when it opens, over when it closes."""

    def __init__(self, request: bytes, told_at: int = 0) -> None:
        """`under_way` is set by the `told_at`th batch of bytes."""
        self._request = request
        self._told_at = told_at
        self._transport: asyncio.Transport | None = None
        self.sent = 0.0
        self.received: list[tuple[float, bytes]] = []
        self.under_way = asyncio.Event()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        # uvloop's transports have asyncio's methods, but not its classes.
        self._transport = cast(asyncio.Transport, transport)
        self.sent = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the bytes and the time; nothing else, see the module."""
        self.received.append((time.monotonic(), data))
        if len(self.received) == self._told_at:
            self.under_way.set()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - what is missing shows in the answer
        """Over, whatever the reason."""
        self.under_way.set()
        self.closed.set()

    def hang_up(self) -> None:
        """Leave in the middle."""
        if self._transport is not None:
            self._transport.abort()

    def answer(self, *, whole: bool = True) -> Answer:
        """What came. Raises RequestFailed if it was no answer, or (where `whole` is asked for) not all of one."""
        return read_answer(self.sent, self.received, whole=whole)


@dataclass(slots=True)
class _Payload:
    """The body of an answer as it grew: `marks` says how long it was at which time."""

    data: bytearray = field(default_factory=bytearray)
    marks: list[tuple[int, float]] = field(default_factory=list)

    def add(self, data: bytes, at: float) -> None:
        self.data += data
        self.marks.append((len(self.data), at))

    def time_of(self, end: int) -> float:
        """When the byte before `end` was there."""
        return self.marks[bisect_left(self.marks, end, key=lambda mark: mark[0])][1]


def read_answer(sent: float, received: list[tuple[float, bytes]], *, whole: bool = True) -> Answer:
    """Take a streamed chat completion apart. Raises RequestFailed."""
    head, payload, complete = _unwrapped(received)
    status = head.split(maxsplit=2)[1:2]
    if status != [b"200"]:
        words = head.splitlines()[0] + b" " + payload.data[:500]
        raise RequestFailed(words.decode(errors="replace"))
    arrivals: list[float] = []
    usage: dict[str, int] = {}
    done = False
    for record, end in _events(payload.data):
        if record == b"[DONE]":
            done = True
            continue
        event = json.loads(record)
        if "error" in event:
            raise RequestFailed(str(event["error"]))
        usage = event.get("usage") or usage
        if any(choice.get("delta", {}).get("content") for choice in event["choices"]):
            arrivals.append(payload.time_of(end))
    if whole and not (complete and done):
        raise RequestFailed("the stream broke off before its end")
    if not arrivals:
        raise RequestFailed("the answer has no text")
    return Answer(sent, received[-1][0], tuple(arrivals), usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _events(data: bytearray) -> "list[tuple[bytes, int]]":
    """What stands after `data:` in each finished line, and where the line ends."""
    found = []
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = bytes(data[start:end]).strip()
        if line.startswith(b"data:"):
            found.append((line.removeprefix(b"data:").strip(), end + 1))
        start = end + 1
    return found


def _unwrapped(received: list[tuple[float, bytes]]) -> tuple[bytes, _Payload, bool]:
    """Head and payload of an HTTP/1.1 response, and whether its framing says that it is complete."""
    raw = _Payload()
    for at, data in received:
        raw.add(data, at)
    head, found, _ = bytes(raw.data).partition(b"\r\n\r\n")
    if not found:
        raise RequestFailed("the server closed the connection without an answer")
    payload = _Payload()
    position = len(head) + 4
    if b"transfer-encoding: chunked" not in head.lower():
        payload.add(bytes(raw.data[position:]), received[-1][0])
        payload.marks = [(mark - position, at) for mark, at in raw.marks if mark > position]
        return head, payload, True
    while (line_end := raw.data.find(b"\r\n", position)) >= 0:
        size = int(raw.data[position:line_end].partition(b";")[0], 16)
        position = line_end + 2 + size + 2
        if size == 0:
            return head, payload, True
        if position > len(raw.data):
            break
        payload.add(bytes(raw.data[line_end + 2 : position - 2]), raw.time_of(position - 2))
    return head, payload, False
