"""What the server is and how it fares: /, /health, /healthz, /readyz, /system-info, /version."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from api.answers import json_answer, loaded_models_count, memory_figures
from api.auth import caller_of, needs, public
from api.services import Check, Services
from api.times import rfc3339
from application.residents import Resident
from domain.access import NOBODY, Scope
from domain.errors import ModelNotFound
from domain.rung import RungVerdict

GIB = 1 << 30
PUBLIC_HEALTH = ("status", "service", "version", "timestamp", "loaded_models_count")


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["system"])

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @public
    async def root() -> Response:
        return PlainTextResponse("Ollama is running")

    @router.get("/health", summary="How the server fares")
    @public
    async def health(request: Request) -> Response:
        content = health_of(services)
        if caller_of(request.scope) is NOBODY:
            content = {name: content[name] for name in PUBLIC_HEALTH}
        return json_answer(content, 503 if content["status"] == "down" else 200, _retry_if(content["status"] == "down"))

    @router.get("/healthz", summary="Whether the process lives")
    @public
    async def healthz() -> Response:
        if failed := _failing(services.heartbeats):
            return json_answer({"status": "stalled", "failed": failed}, 503, _retry_if(True))
        return json_answer({"status": "ok"})

    @router.get("/readyz", summary="Whether the server takes work")
    @public
    async def readyz() -> Response:
        failed = _failing({**services.heartbeats, **services.readiness})
        checks = await services.jobs.health.check() if services.jobs else {}
        broken = sorted(name for name, state in checks.items() if state != "ok")
        content: dict[str, Any] = {"checks": checks} if checks else {}
        if failed or broken:
            # Clients of the job API look for the word "unavailable".
            status = "unavailable" if broken else "not_ready"
            return json_answer({"status": status, "failed": [*failed, *broken], **content}, 503, _retry_if(True))
        return json_answer({"status": "ready", **content})

    @router.get("/system-info", summary="The machine, the libraries and the settings")
    @needs(Scope.INFER)
    async def system_info() -> Response:
        return json_answer(system_info_of(services))

    @router.get("/version", summary="Which version this is")
    @needs(Scope.INFER)
    async def version() -> Response:
        return json_answer(
            {"name": services.name, "version": services.version, "ollama_api": services.ollama_api_version}
        )

    return router


def _failing(checks: Mapping[str, Check]) -> list[str]:
    return sorted(name for name, works in checks.items() if not works())


def _retry_if(condition: bool) -> dict[str, str]:
    return {"retry-after": "1"} if condition else {}


def health_of(services: Services) -> dict[str, Any]:
    """The body of /health: first what everybody may see, then what says more about this machine."""
    problems = _problems(services)
    dead = _failing(services.heartbeats)
    # Scripts look for the word "healthy", so no other status contains it.
    status = "down" if dead else "degraded" if problems else "healthy"
    gpus = services.probe.system_info().gpus
    content: dict[str, Any] = {
        "status": status,
        "service": services.name,
        "version": services.version,
        "timestamp": rfc3339(services.clock.now()),
        "loaded_models_count": loaded_models_count(services),
        "memory_usage": memory_figures(services),
        "model": services.defaults.speech_model,
        "device": _speech_device(services),
        "gpu_available": bool(gpus),
        "gpu_name": gpus[0].name if gpus else None,
    }
    if status != "healthy":
        content["problems"] = [*(f"{name} has stopped" for name in dead), *problems]
    return content


def _problems(services: Services) -> list[str]:
    failing = [f"{name} is not ready" for name in _failing(services.readiness)]
    specs = services.pool.repository.installed()
    failing += [f"model '{spec.id}' does not load" for spec in specs if services.pool.failure_of(spec.id)]
    loaded = (resident.model for resident in services.pool.residents() if resident.model is not None)
    return failing + [
        f"model '{model.id}' does not hear in {rung.compute_type} on {rung.device}: {rung.reason}"
        for model in loaded
        for rung in model.rungs
        if rung.verdict is RungVerdict.REJECTED
    ]


def _speech_device(services: Services) -> str:
    """Where the default speech model is, or would go."""
    resident = _default_speech_resident(services)
    if resident is not None and resident.model is not None:
        return resident.model.device
    if services.defaults.speech_device != "auto":
        return services.defaults.speech_device
    return "cuda" if services.probe.system_info().gpus else "cpu"


def _default_speech_resident(services: Services) -> Resident | None:
    try:
        spec = services.pool.repository.find(services.defaults.speech_model)
    except ModelNotFound:
        return None
    return next((resident for resident in services.pool.residents() if resident.spec.id == spec.id), None)


def system_info_of(services: Services) -> dict[str, Any]:
    """The body of /system-info. Memory in GiB."""
    info = services.probe.system_info()
    usage = services.pool.repository.memory()
    capabilities = {capability for spec in services.pool.repository.installed() for capability in spec.capabilities}
    return {
        "cpu_count": info.cpu_threads,
        "memory_total": round(usage.total / GIB, 2),
        "memory_available": round(usage.available / GIB, 2),
        "memory_percent": round(100 * (usage.total - usage.available) / usage.total, 1) if usage.total else 0.0,
        "thread_pool_workers": services.max_workers,
        "process_pool_workers": services.max_processes,
        "loaded_models_count": loaded_models_count(services),
        "cpu": {"model": info.cpu_model, "cores": info.cpu_cores, "threads": info.cpu_threads, "isa": info.isa},
        "gpus": [asdict(gpu) for gpu in info.gpus],
        "kernels": info.kernels,
        "versions": {services.name: services.version, **info.versions},
        "disk": {"models_free_bytes": info.models_free_bytes},
        "uptime_seconds": round(services.clock.monotonic() - services.started_at, 1),
        "capabilities": sorted(capabilities),
        "settings": dict(services.settings),
    }
