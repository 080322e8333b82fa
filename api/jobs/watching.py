"""GET /api/v1/jobs/{id}/events: what happened to a job, as a list or as it happens."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.docs_page import gives, header_parameters
from api.errors import InvalidFields, Problem
from api.job_services import JobServices
from api.jobs.answers import EventsAnswer
from api.jobs.reading import job_id_of
from api.jobs.record import event_record
from api.services import Limits
from api.streaming import Framing, Record, streamed
from domain.access import Scope
from domain.job import JobStatus

LOOK_SECONDS = 0.2
PROGRESS_SECONDS = 1.0
MAX_SEQ = 2**62
LAST_HEADER = {"Last-Event-ID": "The seq of the last event that was seen: only later ones are told"}


def _frame(record: Record) -> bytes:
    number = f"id: {record['seq']}\n" if "seq" in record else ""
    kind = record.get("kind", "error")
    return f"{number}event: {kind}\n".encode() + b"data: " + orjson.dumps(record) + b"\n\n"


EVENTS = Framing("text/event-stream; charset=utf-8", _frame, b"", b": ping\n\n")


def routes(services: JobServices, limits: Limits) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["jobs"])

    @router.get(
        "/jobs/{id}/events",
        summary="What happened to a job",
        openapi_extra={"parameters": header_parameters(LAST_HEADER)},
        responses={200: gives(EventsAnswer, "A list, or by Accept a stream that ends with the job")},
    )
    @needs(Scope.JOBS)
    async def events(request: Request) -> Response:
        job_id = job_id_of(request)
        after = _last_seen(request)
        owners = caller_of(request.scope).bound_owners
        if "text/event-stream" not in request.headers.get("accept", "").lower():
            found = await services.history.events(job_id, after, owners)
            return json_answer({"events": [event_record(event) for event in found]})
        await services.jobs.get(job_id, owners)
        return await streamed(
            request,
            _as_they_happen(services, job_id, after),
            EVENTS,
            ping_seconds=limits.ping_seconds,
            stall_seconds=limits.stall_seconds,
        )

    return router


def _last_seen(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= MAX_SEQ):
        raise InvalidFields([Problem(("Last-Event-ID",), "must be the seq of an event")])
    return int(text)


async def _as_they_happen(services: JobServices, job_id: str, after: int) -> AsyncGenerator[Record, None]:
    """Events from `after` on, progress once a second, until the job is over."""
    told: Any = None
    told_at = services.clock.monotonic()
    while True:
        # The job first: an event that comes between the two is told, and its job looked at again.
        job = await services.jobs.get(job_id)
        for event in await services.history.events(job_id, after):
            after = event.seq
            yield event_record(event)
        if job.status.terminal:
            return
        now = services.clock.monotonic()
        if job.status is JobStatus.RUNNING and job.progress != told and now - told_at >= PROGRESS_SECONDS:
            told, told_at = job.progress, now
            yield {"kind": "progress", "attempt": job.attempt, "progress": job.progress}
        await asyncio.sleep(LOOK_SECONDS)
