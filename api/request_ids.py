"""The outermost layer: every response has a request id and the server's name, and every request is logged."""

import re
import secrets
import time
from collections.abc import Awaitable

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ACCEPTABLE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(scope: Scope) -> str:
    """The id that this request has in headers, logs and errors."""
    return str(scope["state"]["request_id"])


def new_request_id() -> str:
    """An id that nobody has."""
    return f"r-{secrets.token_hex(8)}"


class RequestIds:
    """Keeps the client's `X-Request-ID` if it is well formed and no live request has it, else makes one."""

    def __init__(self, app: ASGIApp, server: str) -> None:
        self._app = app
        self._headers = [(b"server", server.encode()), (b"x-content-type-options", b"nosniff")]
        self._live: set[str] = set()
        self._log = structlog.get_logger("ingle.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._choose(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        added = [*self._headers, (b"x-request-id", request_id.encode())]
        status: int | None = None

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            return send(message)

        self._live.add(request_id)
        began = time.monotonic()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._live.discard(request_id)
            self._log_request(scope, request_id, status, time.monotonic() - began)

    def _choose(self, scope: Scope) -> str:
        given = Headers(scope=scope).getlist("x-request-id")
        if len(given) == 1 and _ACCEPTABLE.fullmatch(given[0]) and given[0] not in self._live:
            return given[0]
        return new_request_id()

    def _log_request(self, scope: Scope, request_id: str, status: int | None, seconds: float) -> None:
        route = scope.get("route")
        self._log.info(
            "request",
            request_id=request_id,
            method=scope["method"],
            # The route's template: what the client wrote as a path stays out of the log.
            route=getattr(route, "path", "unknown"),
            # No response was begun: the client had left.
            status=499 if status is None else status,
            total_ms=round(1000 * seconds),
            client_ip=(scope.get("client") or ("unknown",))[0],
        )
