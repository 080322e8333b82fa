"""HTTP below the application: what uvicorn itself puts no limit to.

Headers are counted and must come soon, bodies must keep coming, and one address gets a bounded number of
connections. What is refused here has the same shape as everywhere else.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from api.error_shapes import render
from api.errors import HeadersTooLarge, RequestTimeout, TooManyConnections, TransportFailure
from api.request_ids import new_request_id
from domain.errors import IngleError


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes in bytes, times in seconds.

    A body has `body_grace` seconds before its rate counts; from then on each `rate_window` must bring
    `body_rate` bytes a second. `unread` is how much of a body is read and dropped after the answer to it;
    `linger` is how long a refused client may go on sending, so that it can read why. `keep_alive` is how long
    a connection may stay open between two requests.
    `trusted` addresses (proxies) may open any number of connections.
    """

    header_bytes: int = 64 << 10
    header_fields: int = 100
    request_line: int = 8 << 10
    header_seconds: float = 10.0
    body_grace: float = 10.0
    rate_window: float = 5.0
    body_rate: int = 1 << 10
    unread: int = 64 << 20
    linger: float = 1.0
    keep_alive: int = 75
    connections: int = 256
    trusted: frozenset[str] = frozenset()


def limited_protocol(limits: ConnectionLimits, server: str) -> "type[_LimitedProtocol]":
    """The protocol class of one server, for `uvicorn.Config(http=…)`; `server` is its name and version."""

    class Limited(_LimitedProtocol):
        pass

    Limited.limits = limits
    Limited.server_name = server.encode()
    Limited.open_connections = Counter()
    return Limited


class _LimitedProtocol(HttpToolsProtocol):
    """One connection. `open_connections` counts those of its server, by address."""

    limits: ConnectionLimits
    server_name: bytes
    open_connections: Counter[str]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.timeout_keep_alive = self.limits.keep_alive
        self.url = b""
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: IngleError | None = None
        self._is_refused = False
        self._is_reading_headers = False
        self._raw_bytes = 0
        self._field_bytes = 0
        self._body_bytes = 0
        self._unread_bytes = 0

    # -- the connection -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _send_at_once(transport)
        self._address = self.client[0] if self.client else ""
        self.open_connections[self._address] += 1
        is_trusted = self._address in self.limits.trusted
        if not is_trusted and self.open_connections[self._address] > self.limits.connections:
            self._refuse(TooManyConnections())
        else:
            self._start_timer(self.limits.header_seconds, self._on_slow_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.open_connections[self._address] -= 1
        if not self.open_connections[self._address]:
            del self.open_connections[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_reading_headers:
            self._raw_bytes += len(data)
            if self._raw_bytes > self.limits.request_line + self.limits.header_bytes:
                self._refuse(HeadersTooLarge())

    def send_400_response(self, msg: str) -> None:
        """The parser, or one of our callbacks in it, has raised."""
        del msg
        self._refuse(self._refusal or TransportFailure("this is not a valid HTTP/1.1 request"))

    # -- a request ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_reading_headers = True
        self._raw_bytes = self._field_bytes = self._unread_bytes = 0
        if self._timer is None:
            self._start_timer(self.limits.header_seconds, self._on_slow_headers)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.request_line:
            self._stop_parsing(HeadersTooLarge())

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._field_bytes += len(name) + len(value) + len(b": \r\n")
        if self._field_bytes > self.limits.header_bytes or len(self.headers) > self.limits.header_fields:
            self._stop_parsing(HeadersTooLarge())

    def on_headers_complete(self) -> None:
        self._is_reading_headers = False
        self._body_bytes = 0
        self._start_timer(self.limits.body_grace, lambda: self._check_rate(self.limits.body_grace))
        self.scope["state"]["abort"] = self.transport.abort
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > self.limits.unread:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    # -- limits -------------------------------------------------------------------------------------

    def _start_timer(self, seconds: float, act: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, act)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_slow_headers(self) -> None:
        if self._is_reading_headers:
            self._refuse(RequestTimeout("the request's headers came in too slowly"))
        else:
            self.transport.close()

    def _check_rate(self, seconds: float) -> None:
        # While the application does not read, the client cannot send: that is not its fault.
        is_held = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if not is_held and self._body_bytes < self.limits.body_rate * seconds:
            self._refuse(RequestTimeout("the request's body came in too slowly"))
            return
        self._body_bytes = 0
        self._start_timer(self.limits.rate_window, lambda: self._check_rate(self.limits.rate_window))

    def _stop_parsing(self, refusal: IngleError) -> None:
        """Out of a callback of the parser, which goes on until one raises."""
        self._refusal = refusal
        raise ValueError(refusal.code)

    def _refuse(self, error: IngleError) -> None:
        """Answer, unless an answer has begun; then hang up."""
        self._stop_timer()
        self._is_refused = True
        in_progress = self.cycle is not None and not self.cycle.response_complete
        if in_progress:
            # The application sees a client that has left, and sends nothing any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not (in_progress and self.cycle.response_started):
            self.transport.write(self._answer(error))
        if self.transport.can_write_eof():
            # Closing at once would reset the connection under a client that is still sending.
            self.transport.write_eof()
            self._start_timer(self.limits.linger, self.transport.abort)
        else:
            self.transport.close()

    def _answer(self, error: IngleError) -> bytes:
        request_id = new_request_id()
        path = self.url.partition(b"?")[0].decode("latin-1")
        rendered = render(error, path, request_id)
        headers = {
            **rendered.headers,
            "content-length": str(len(rendered.body)),
            "connection": "close",
            "x-request-id": request_id,
        }
        lines = [*self.server_state.default_headers, (b"server", self.server_name)]
        lines += [(name.encode(), value.encode()) for name, value in headers.items()]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        return STATUS_LINE[rendered.status] + head + b"\r\n" + rendered.body


def _send_at_once(transport: asyncio.Transport) -> None:
    """Switch Nagle's algorithm off, or an answer in two writes waits 40 ms for the client's acknowledgement.

    asyncio does this itself only for sockets that were made with an explicit protocol number.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
