"""What operators see and set: statistics, workers, queues, owners, webhook deliveries."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.bodies import Body, validate
from api.docs_page import describes, gives, query_parameters
from api.errors import InvalidFields, Problem
from api.job_services import JobServices
from api.jobs.figures import (
    DeliveriesAnswer,
    OwnerAnswer,
    OwnersAnswer,
    QueueAnswer,
    QueuesAnswer,
    RedeliveryAnswer,
    StatsAnswer,
    WorkersAnswer,
)
from api.jobs.job_body import RetryBody
from api.jobs.reading import WholeNumber, query_of, read_job_json
from api.jobs.record import moment
from application.job_ports import Delivery, DeliveryStatus, WorkerRecord
from domain.access import Scope
from domain.job_limits import OwnerRules, QueueRules, QueueState
from domain.new_job import NAME

ALIVE_MS = 30_000
WINDOWS = {"1m": 60_000, "5m": 300_000, "1h": 3_600_000, "24h": 86_400_000}


class StatsQuery(Body):
    """Which jobs are counted, and over which time."""

    owner_service: str | None = None
    window: str = "1h"


class QueueBody(Body):
    """What is set for a queue; null takes the default back."""

    paused: bool | None = None
    max_running: int | None = None
    lease_seconds: int | None = None
    timeout_seconds: int | None = None
    retry: RetryBody | None = None


class OwnerBody(Body):
    """What is set for an owner; null takes the default back."""

    weight: float | None = None
    max_pending: int | None = None
    max_running: int | None = None
    priority_cap: int | None = None
    input_bytes_per_day: int | None = None
    tokens_per_day: int | None = None


class DeliveryQuery(Body):
    """Which deliveries."""

    status: DeliveryStatus | None = None
    owner_service: str | None = None
    job_id: str | None = None
    limit: WholeNumber = Field(50, ge=1, le=100)
    cursor: str | None = None


def routes(services: JobServices) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["jobs: operators"])

    @router.get(
        "/stats",
        summary="Jobs in figures",
        openapi_extra={"parameters": query_parameters(StatsQuery)},
        responses={200: gives(StatsAnswer, "Figures, at most two seconds old")},
    )
    @needs(Scope.JOBS, Scope.METRICS)
    async def stats(request: Request) -> Response:
        query = query_of(request, StatsQuery)
        if query.window not in WINDOWS:
            raise InvalidFields([Problem(("window",), f"must be one of {', '.join(WINDOWS)}")])
        caller = caller_of(request.scope)
        owners = caller.bound_owners
        if query.owner_service is not None:
            # Of another's owner as much is told as of one that does not exist.
            owners = frozenset((query.owner_service,) if caller.acts_for(query.owner_service) else ())
        document = dict(await services.statistics.stats(WINDOWS[query.window], owners))
        # What workers do is told to those who see everybody's jobs.
        seen = await services.workers.workers() if caller.bound_owners is None else ()
        document["workers"] = [_worker(one) for one in seen]
        document["dispatch"] = {**document.get("dispatch", {}), "broker": services.broker()}
        return json_answer({**_with_moments(document), "window": query.window})

    @router.get(
        "/workers",
        summary="Who works, or worked within a day",
        responses={200: gives(WorkersAnswer, "Newest first")},
    )
    @needs(Scope.ADMIN)
    async def workers() -> Response:
        found = await services.workers.workers()
        return json_answer({"workers": [_worker(one) for one in found]})

    @router.get(
        "/queues",
        summary="Every queue, which is a model profile",
        responses={200: gives(QueuesAnswer, "By name")},
    )
    @needs(Scope.ADMIN)
    async def queues() -> Response:
        return json_answer({"queues": [_queue(state) for state in await services.rules.queues()]})

    @router.patch(
        "/queues/{model_profile:path}",
        summary="Pause or limit a queue",
        openapi_extra=describes(QueueBody),
        responses={200: gives(QueueAnswer, "The queue as it is now")},
    )
    @needs(Scope.ADMIN)
    async def set_queue(request: Request) -> Response:
        profile = _name(request, "model_profile")
        raw = await read_job_json(request)
        body = validate(QueueBody, raw)
        least = services.limits.lease_seconds
        if body.lease_seconds is not None and body.lease_seconds < least:
            raise InvalidFields([Problem(("lease_seconds",), f"must be between {least} and 3600")])
        old = (await services.rules.queue(profile)).rules
        changes: dict[str, Any] = {
            "paused": bool(body.paused),
            "max_running": body.max_running,
            "lease_ms": None if body.lease_seconds is None else 1000 * body.lease_seconds,
            "timeout_ms": None if body.timeout_seconds is None else 1000 * body.timeout_seconds,
            "retry": body.retry.rules() if body.retry else None,
        }
        said = {name.replace("_seconds", "_ms") for name in raw}
        await services.rules.set_queue(replace(old, **{name: changes[name] for name in changes.keys() & said}))
        return json_answer(_queue(await services.rules.queue(profile)))

    @router.get(
        "/owners",
        summary="Every owner that something is set for",
        responses={200: gives(OwnersAnswer, "By name")},
    )
    @needs(Scope.ADMIN)
    async def owners() -> Response:
        return json_answer({"owners": [asdict(rules) for rules in await services.rules.owners()]})

    @router.patch(
        "/owners/{owner_service:path}",
        summary="Weigh or limit an owner",
        openapi_extra=describes(OwnerBody),
        responses={200: gives(OwnerAnswer, "The owner as it is now")},
    )
    @needs(Scope.ADMIN)
    async def set_owner(request: Request) -> Response:
        owner = _name(request, "owner_service")
        raw = await read_job_json(request)
        given = validate(OwnerBody, raw).model_dump(include=set(raw))
        if given.get("weight", 1.0) is None:
            given["weight"] = OwnerRules(owner).weight
        await services.rules.set_owner(replace(await services.rules.owner(owner), **given))
        return json_answer(asdict(await services.rules.owner(owner)))

    @router.get(
        "/webhooks/deliveries",
        summary="What was told to callbacks, or is to be",
        openapi_extra={"parameters": query_parameters(DeliveryQuery)},
        responses={200: gives(DeliveriesAnswer, "A page")},
    )
    @needs(Scope.ADMIN)
    async def deliveries(request: Request) -> Response:
        query = query_of(request, DeliveryQuery)
        found = await services.outbox.deliveries(
            query.limit, query.cursor, status=query.status, owner_service=query.owner_service, job_id=query.job_id
        )
        cursor = found[-1].id if len(found) == query.limit else None
        return json_answer({"deliveries": [_delivery(one) for one in found], "next_cursor": cursor})

    @router.post(
        "/webhooks/deliveries/{id}/redeliver",
        summary="Tell it again",
        status_code=202,
        responses={202: gives(RedeliveryAnswer, "It is queued anew")},
    )
    @needs(Scope.ADMIN)
    async def redeliver(request: Request) -> Response:
        await services.outbox.redeliver(str(request.path_params["id"]))
        return json_answer({"id": request.path_params["id"], "status": DeliveryStatus.QUEUED.value}, 202)

    return router


def _name(request: Request, field: str) -> str:
    name = str(request.path_params[field])
    if not NAME.fullmatch(name):
        raise InvalidFields([Problem((field,), "must be a name: letters, digits and _.:/@-, at most 128")])
    return name


def _worker(worker: WorkerRecord) -> Mapping[str, Any]:
    return {
        "worker_id": worker.worker_id,
        "kind": worker.kind,
        "last_seen_at": moment(worker.last_seen_at),
        "running": worker.running,
        "profiles": list(worker.profiles),
        "alive": worker.silent_ms <= ALIVE_MS,
    }


def _queue(state: QueueState) -> Mapping[str, Any]:
    rules: QueueRules = state.rules
    return {
        "model_profile": rules.model_profile,
        "paused": rules.paused,
        "held_until": moment(state.held_until),
        "held_reason": state.held_reason,
        "max_running": rules.max_running,
        "lease_seconds": None if rules.lease_ms is None else rules.lease_ms // 1000,
        "timeout_seconds": None if rules.timeout_ms is None else rules.timeout_ms // 1000,
        "retry": None if rules.retry is None else asdict(rules.retry),
        "pending": state.pending,
        "running": state.running,
    }


def _delivery(delivery: Delivery) -> Mapping[str, Any]:
    return {
        "id": delivery.id,
        "job_id": delivery.job_id,
        "owner_service": delivery.owner_service,
        "event": delivery.event,
        "endpoint": delivery.endpoint,
        "status": delivery.status.value,
        "tries": delivery.tries,
        "next_at": moment(delivery.next_at) if delivery.status is DeliveryStatus.QUEUED else None,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": moment(delivery.created_at),
    }


def _with_moments(value: Any) -> Any:
    """The statistics with their times as text."""
    if isinstance(value, Mapping):
        return {
            name: moment(part) if name.endswith(("_at", "_until")) and isinstance(part, int) else _with_moments(part)
            for name, part in value.items()
        }
    return [_with_moments(part) for part in value] if isinstance(value, list | tuple) else value
