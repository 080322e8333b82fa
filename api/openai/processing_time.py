"""The header `openai-processing-ms`: how long the server had the request when its answer began."""

import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_shapes import Dialect, dialect_of


class ProcessingTime:
    """Adds the header to every response of this dialect, failures included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request, and mark its response."""
        if scope["type"] != "http" or dialect_of(scope["path"]) is not Dialect.OPENAI:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        def send_with_time(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                elapsed = round(1000 * (time.monotonic() - began))
                header = (b"openai-processing-ms", str(elapsed).encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            return send(message)

        await self._app(scope, receive, send_with_time)
