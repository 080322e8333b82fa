"""Small parts of many answers."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from api.errors import InvalidFields, Problem
from api.services import MIB, Services
from application.off_loop import off_loop
from application.residents import ResidentState


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON body in UTF-8."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def large_answer(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The same of what may hold payloads of jobs, many and large ones: written off the event loop where they are."""
    return await off_loop(content, lambda: json_answer(_lists_written(content), status, headers))


def _lists_written(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`content` with the members of its lists as text: each call of the writer keeps other threads waiting."""
    return {
        name: [orjson.Fragment(orjson.dumps(one)) for one in value] if isinstance(value, list) else value
        for name, value in content.items()
    }


def memory_figures(services: Services) -> dict[str, float | int]:
    """The four figures about memory that several answers show; megabytes are powers of 1,024."""
    usage = services.pool.repository.memory()
    return {
        "rss_mb": round(usage.rss / MIB, 1),
        "vms_mb": round(usage.vms / MIB, 1),
        "percent": round(usage.process_percent, 1),
        "loaded_models_count": loaded_models_count(services),
    }


def loaded_models_count(services: Services) -> int:
    """How many models are ready in memory."""
    return sum(resident.state is ResidentState.LOADED for resident in services.pool.residents())


def one_of(
    first: str | None, second: str | None, default: str, *, names: tuple[str, str] = ("model", "model_id")
) -> str:
    """The value of a field with two names; both with different values are refused."""
    if first is not None and second is not None and first != second:
        raise InvalidFields(
            [Problem((names[1],), f"{names[0]} and {names[1]} are one field: they have different values")]
        )
    return first if first is not None else second if second is not None else default
