"""How this dialect answers: one JSON object, or lines of them."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.auth import caller_of
from api.error_shapes import ollama_error, public
from api.sampling import keep_alive_of
from api.services import Services
from api.streaming import NDJSON, Record, streamed
from domain.errors import InvalidRequest

JSON = "application/json; charset=utf-8"

# How Go, which clients know this text from, calls the types of JSON.
_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def answer(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(orjson.dumps(content), 200, {**(headers or {}), "content-type": JSON})


async def lines(
    services: Services,
    request: Request,
    records: AsyncGenerator[Record, None],
    headers: Callable[[], Mapping[str, str]] = dict,
) -> Response:
    """A stream of records; an error after the first is one line, `{"error": …}`, and the end."""
    return await streamed(
        request,
        records,
        NDJSON,
        ping_seconds=services.limits.ping_seconds,
        stall_seconds=services.limits.stall_seconds,
        headers=headers,
        error_record=lambda error, _: ollama_error(public(error), request.url.path),
    )


def keep_alive_in(services: Services, request: Request, wish: Any) -> float | None:
    """Seconds to stay in memory after the last use, or None for the server's default."""
    if type(wish) in _GO_TYPES:
        raise InvalidRequest(f"Unsupported type: '{_GO_TYPES[type(wish)]}'", field="keep_alive")
    return keep_alive_of(services.limits, caller_of(request.scope), wish)


def named(*names: str | None) -> str:
    """The first name that is given, of fields that mean the same. Raises InvalidRequest if none is."""
    name = next((name for name in names if name), "")
    if not name:
        raise InvalidRequest("model is required", field="model")
    return name
