"""Who waits for a model and who has one: `GET /queue/status`; and the end of a request: `POST /queue/cancel/{id}`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.cancelling import Cancellations
from api.errors import RequestNotFound
from api.services import Services
from api.times import milliseconds, rfc3339
from application.device_standing import DeviceStanding
from application.events import DeviceSwapped
from application.in_flight import Standing
from application.job_counts import JobCounts
from application.ports import SpeechModel
from application.residents import Resident
from domain.access import Scope
from domain.model import Task
from domain.transcription import SpeechQueue


def routes(services: Services, cancellations: Cancellations) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["queue"])
    counts = None if services.jobs is None else JobCounts(services.jobs.rules, services.clock)

    @router.get("/queue/status", summary="How much is waiting, and for what")
    @needs(Scope.INFER)
    async def queue_status(request: Request) -> Response:
        request_id = request.query_params.get("request_id")
        if request_id is None:
            return json_answer({**_status(services), **await jobs()})
        return json_answer(_standing_body(own_standing(request, request_id)))

    @router.post("/queue/cancel/{request_id}", summary="End a request for a model")
    @needs(Scope.INFER)
    async def cancel(request: Request) -> Response:
        request_id = request.path_params["request_id"]
        standing = own_standing(request, request_id)
        if not cancellations.cancel(request_id):
            raise RequestNotFound()
        return json_answer({"request_id": request_id, "status": "cancelling", "state": _state(standing)}, status=202)

    async def jobs() -> dict[str, Any]:
        counted = None if counts is None else await counts.now()
        return {} if counts is None else {"jobs": None if counted is None else asdict(counted)}

    def own_standing(request: Request, request_id: str) -> Standing:
        standing = services.pool.requests.standing_of(request_id) if request_id else None
        caller = caller_of(request.scope)
        if standing is None or not (caller.is_admin or cancellations.is_of(request_id, caller.name)):
            raise RequestNotFound()
        return standing

    return router


def _state(standing: Standing) -> str:
    return "queued" if standing.is_queued else "running"


def _standing_body(standing: Standing) -> dict[str, Any]:
    return {
        "request_id": standing.work.request_id,
        "kind": standing.work.kind.value,
        "model": standing.work.name,
        "state": _state(standing),
        "position": standing.position,
        "eta_ms": _milliseconds(_eta(standing)),
    }


def _eta(standing: Standing) -> float | None:
    """Seconds until it runs; a speech model knows better than an average what lies before it."""
    if not standing.is_queued:
        return 0.0
    queue = _speech_queue(standing)
    return standing.eta_seconds if queue is None else queue.eta_seconds


def _speech_queue(standing: Standing) -> SpeechQueue | None:
    if standing.work.kind is not Task.SPEECH or standing.work.model is None:
        return None
    model: Any = standing.work.model
    speech: SpeechModel = model
    return speech.queue


def _status(services: Services) -> dict[str, Any]:
    requests = services.pool.requests
    standings = requests.standings()
    queued = [standing for standing in standings if standing.is_queued]
    now = services.clock.monotonic()
    oldest = min((standing.work.entered_at for standing in queued), default=now)
    last = requests.last_processed_at
    return {
        "current_queue_size": len(standings),
        "total_processed": requests.processed,
        "total_queued": requests.admitted,
        "last_processed_at": None if last is None else rfc3339(last),
        "is_processing": len(queued) < len(standings),
        "max_queue": services.limits.queue,
        "queued": len(queued),
        "running": len(standings) - len(queued),
        "rejected_total": requests.rejected,
        "cancelled_total": requests.cancelled,
        "oldest_wait_ms": milliseconds(now - oldest),
        "draining": services.pool.is_draining,
        "by_kind": {kind.value: _counts([one for one in standings if one.work.kind is kind]) for kind in Task},
        "by_model": _by_model(services, standings),
        "speech": _speech(standings),
        "devices": _devices(services),
    }


def _counts(standings: Sequence[Standing]) -> dict[str, int]:
    queued = sum(standing.is_queued for standing in standings)
    return {"queued": queued, "running": len(standings) - queued}


def _by_model(services: Services, standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """One entry for each model that is wanted, under its own name."""
    groups: dict[str, list[Standing]] = {}
    for standing in standings:
        model = standing.work.model
        groups.setdefault(standing.work.name if model is None else model.info.id, []).append(standing)
    entries = []
    for name, group in groups.items():
        pace = services.pool.requests.pace_of(name)
        etas = [eta for standing in group if (eta := _eta(standing)) is not None]
        entries.append(
            {
                "model": name,
                **_counts(group),
                "avg_wait_ms": None if pace is None else milliseconds(pace.waited),
                "eta_ms": _milliseconds(max(etas, default=None)),
            }
        )
    return entries


def _speech(standings: Sequence[Standing]) -> dict[str, Any]:
    """What the speech models that are in use have before them, together."""
    models = {standing.work.model: queue for standing in standings if (queue := _speech_queue(standing)) is not None}
    queues = list(models.values())
    etas = [queue.eta_seconds for queue in queues if queue.eta_seconds is not None]
    speeds = [queue.real_time_factor for queue in queues if queue.real_time_factor is not None]
    return {
        "active_requests": sum(queue.active_requests for queue in queues),
        "waiting_windows": sum(queue.waiting_windows for queue in queues),
        "waiting_audio_seconds": round(sum(queue.waiting_audio_seconds for queue in queues), 1),
        "last_batch_rows": max((queue.last_batch_rows for queue in queues), default=0),
        "real_time_factor": round(max(speeds), 1) if speeds else None,
        "eta_seconds": round(max(etas), 1) if etas else None,
    }


def _devices(services: Services) -> list[dict[str, Any]]:
    usage = services.pool.repository.memory()
    sizes = {"cpu": (usage.total, usage.available)}
    sizes |= {f"cuda:{gpu.index}": (gpu.total, gpu.free) for gpu in usage.gpus}
    residents = services.pool.residents()
    return [
        {
            **_standing_on(services.pool.standing_of(device)),
            "in_use_by": _users(residents, device),
            "total_bytes": total,
            "free_bytes": free,
        }
        for device, (total, free) in sizes.items()
    ]


def _standing_on(device: DeviceStanding) -> dict[str, Any]:
    return {
        "device": device.device,
        "sharing": device.sharing,
        "holder": device.holder,
        "held_seconds": None if device.held_seconds is None else round(device.held_seconds, 1),
        "waiting": list(device.waiting),
        "suspended": list(device.suspended),
        "swaps_total": device.swaps_total,
        "last_swap": _swap(device.last_swap),
    }


def _users(residents: Sequence[Resident], device: str) -> list[str]:
    """The kinds of models that work there now."""
    return sorted(
        {
            resident.spec.task.value
            for resident in residents
            if resident.model is not None and resident.model.device == device and resident.in_flight
        }
    )


def _swap(swap: DeviceSwapped | None) -> dict[str, Any] | None:
    if swap is None:
        return None
    return {
        "at": rfc3339(swap.at),
        "from": swap.left,
        "to": swap.came,
        "seconds": round(swap.seconds, 3),
        "evicted": list(swap.evicted),
        "suspended": list(swap.suspended),
        "loaded": swap.loaded,
    }


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else milliseconds(seconds)
