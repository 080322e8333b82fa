"""No body is read beyond its limit, and none that is compressed."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import PayloadTooLarge, UnsupportedMediaType


class BodyGuard:
    """Counts a body while it is read: the claimed length before the handler runs, the real one all the time.

    `limits` maps a path to its limit in bytes, where that is not `limit`; one part of a path may be `{id}`.
    """

    def __init__(self, app: ASGIApp, limit: int, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._limits = {path: most for path, most in limits.items() if "{id}" not in path}
        self._patterns = {path.partition("{id}")[::2]: most for path, most in limits.items() if "{id}" in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request; PayloadTooLarge ends it as soon as its body is over the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise UnsupportedMediaType("compressed bodies are not accepted: send it without Content-Encoding")
        limit = self._limit_of(scope["path"])
        claimed = headers.get("content-length", "")
        if claimed.isdecimal() and int(claimed[:20]) > limit:
            raise PayloadTooLarge(limit)
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise PayloadTooLarge(limit)
            return message

        await self._app(scope, counting_receive, send)

    def _limit_of(self, path: str) -> int:
        if path in self._limits:
            return self._limits[path]
        parts = self._patterns.items()
        matching = (most for (head, tail), most in parts if path.startswith(head) and path.endswith(tail))
        return next(matching, self._limit)
