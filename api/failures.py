"""Every failure inside becomes a response in the shape of the dialect; the framework's own never leave."""

import asyncio
from collections.abc import Awaitable

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_shapes import render
from api.errors import ClientLeft, MethodNotAllowed, RouteNotFound, TransportFailure, statuses_of
from api.request_ids import request_id_of
from domain.errors import IngleError

_log = structlog.get_logger("ingle.http")


def log_failure(error: Exception, request_id: str) -> None:
    """Bugs with their traceback, our own failures of the server with their message, the client's not at all."""
    if not isinstance(error, IngleError):
        _log.error("unhandled error", request_id=request_id, error=type(error).__name__, exc_info=error)
    elif statuses_of(error).native >= 500:
        _log.warning("request failed", request_id=request_id, code=error.code, reason=str(error))


def response_to(error: Exception, scope: Scope) -> Response:
    """The response for a failure of the request in `scope`."""
    rendered = render(error, scope["path"], request_id_of(scope))
    # Content-Type stands in the headers: `media_type` would append a charset to it.
    return Response(rendered.body, rendered.status, dict(rendered.headers))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router refuses: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    failure: TransportFailure
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        failure = MethodNotAllowed(sorted(method.strip() for method in allowed.split(",") if method.strip()))
    elif error.status_code == 404:
        failure = RouteNotFound()
    else:
        failure = TransportFailure()
    return response_to(failure, request.scope)


class Failures:
    """Catches what the layers and routes inside raise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request; answer for it if it raises before its response has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        def watched_send(message: Message) -> Awaitable[None]:
            nonlocal has_started
            has_started = has_started or message["type"] == "http.response.start"
            return send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientLeft:
            # Nobody is there to read an answer.
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log_failure(error, request_id_of(scope))
            if has_started:
                raise
            await response_to(error, scope)(scope, receive, send)
