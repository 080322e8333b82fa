"""GET /api/v1/providers/status: how the servers do that requests are passed on to. Names and hosts, never a key."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from api.answers import json_answer
from api.auth import needs
from api.docs_page import gives
from api.services import Services
from api.times import rfc3339
from application.ports import ProviderState
from application.residents import ResidentState
from domain.access import Scope

# These are named whether or not anybody configured them.
_OTHERS = {"llm": "openai_compatible", "whisperx": "whisperx", "openai": "openai_compatible"}


class ProviderAnswer(BaseModel):
    """A server, or this one: `status` is ok, degraded, down or not_configured."""

    name: str
    kind: str
    configured: bool
    base_url_host: str | None
    status: str
    latency_ms: int | None
    checked_at: str
    models: list[str]
    circuit: str
    error_code: str | None


class ProvidersAnswer(BaseModel):
    """This server, and those that it passes requests to."""

    providers: list[ProviderAnswer]


def routes(services: Services) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["system"])

    @router.get(
        "/api/v1/providers/status",
        summary="How this server and those that it passes requests to fare",
        responses={200: gives(ProvidersAnswer, "This server first")},
    )
    @needs(Scope.JOBS, Scope.METRICS)
    async def providers_status() -> Response:
        states = await services.providers.states() if services.providers is not None else ()
        known = {state.name for state in states}
        missing = [_not_configured(services, name, kind) for name, kind in _OTHERS.items() if name not in known]
        return json_answer({"providers": [_shown(state) for state in (_local(services), *states, *missing)]})

    return router


def _local(services: Services) -> ProviderState:
    works = all(check() for check in services.heartbeats.values())
    loaded = [one.spec.id for one in services.pool.residents() if one.state is ResidentState.LOADED]
    return ProviderState(
        name="local",
        kind="in_process",
        configured=True,
        host=None,
        status="ok" if works else "down",
        latency_ms=0,
        checked_at=services.clock.now(),
        models=tuple(loaded),
        circuit="closed",
        error_code=None if works else "engine_unavailable",
    )


def _not_configured(services: Services, name: str, kind: str) -> ProviderState:
    return ProviderState(
        name=name,
        kind=kind,
        configured=False,
        host=None,
        status="not_configured",
        latency_ms=None,
        checked_at=services.clock.now(),
        models=(),
        circuit="closed",
        error_code=None,
    )


def _shown(state: ProviderState) -> dict[str, Any]:
    return {
        "name": state.name,
        "kind": state.kind,
        "configured": state.configured,
        "base_url_host": state.host,
        "status": state.status,
        "latency_ms": state.latency_ms,
        "checked_at": rfc3339(state.checked_at),
        "models": list(state.models),
        "circuit": state.circuit,
        "error_code": state.error_code,
    }
