"""What owners do: look at jobs, cancel, retry and delete them, one or all that match."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, large_answer
from api.auth import caller_of, needs
from api.bodies import Body, validate
from api.docs_page import describes, gives, query_parameters, schema_of
from api.errors import InvalidFields, Problem
from api.job_services import JobServices
from api.jobs.answers import BulkAnswer, ChangedJob, ListAnswer, ShownJob
from api.jobs.binding import visible_job
from api.jobs.job_body import Moment, milliseconds_of
from api.jobs.reading import WholeNumber, job_id_of, query_of, read_job_json
from api.jobs.record import attempt_records, job_record
from api.streaming import unless_client_leaves
from domain.access import Scope
from domain.errors import IngleError
from domain.job import Job, JobStatus
from domain.job_repository import Cancel, Changed, Delete, JobFilter, Retry

LOOK_SECONDS = 0.2
FILTERS = frozenset(("owner_service", "owner_ref", "task_type", "model_profile", "status", "error_code", "batch_id"))
ACTOR = "api"
BULK_DONE: dict[int | str, dict[str, Any]] = {200: gives(BulkAnswer, "What was changed, or would be")}

Values = Annotated[list[str], Field(max_length=50)]


class FilterBody(Body):
    """Which jobs; every field that is given must match exactly."""

    owner_service: Values = Field(default_factory=list)
    owner_ref: Values = Field(default_factory=list)
    task_type: Values = Field(default_factory=list)
    model_profile: Values = Field(default_factory=list)
    status: Annotated[list[JobStatus], Field(max_length=5)] = Field(default_factory=list)
    error_code: Values = Field(default_factory=list)
    batch_id: Values = Field(default_factory=list)
    created_after: Moment | None = None
    created_before: Moment | None = None

    def filter(self) -> JobFilter:
        """The same for the domain."""
        lists = {name: tuple(getattr(self, name)) for name in FILTERS}
        after, before = (
            None if at is None else milliseconds_of(at) for at in (self.created_after, self.created_before)
        )
        return JobFilter(**lists, created_after=after, created_before=before)


class ListQuery(FilterBody):
    """A page of a list."""

    limit: WholeNumber = Field(50, ge=1, le=100)
    cursor: WholeNumber | None = Field(None, ge=1, le=2**62)
    include: str = ""


class JobQuery(Body):
    """How one job is shown."""

    wait: float = Field(0, ge=0, le=30)
    include: str = ""


class CancelBody(Body):
    """Why a job is not wanted any more."""

    reason: str | None = Field(None, max_length=512)


class RetryBody(Body):
    """How a job runs again."""

    force: bool = False
    max_attempts: int | None = Field(None, ge=1, le=100)
    delay_seconds: float = Field(0, ge=0, le=2_592_000)


class BulkBody(Body):
    """All jobs that match, newest first, at most `limit`."""

    filter: Annotated[dict[str, Any], WithJsonSchema(schema_of(FilterBody))]
    limit: int = Field(ge=1, le=10_000)
    dry_run: bool = False


def routes(services: JobServices) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["jobs"])
    bulk = describes(BulkBody)

    @router.get(
        "/jobs",
        summary="List jobs, newest first",
        openapi_extra={"parameters": query_parameters(ListQuery)},
        responses={200: gives(ListAnswer, "A page")},
    )
    @needs(Scope.JOBS)
    async def list_jobs(request: Request) -> Response:
        query = query_of(request, ListQuery, lists=FILTERS)
        payloads = _included(query.include, "input", "result")
        wanted = replace(query.filter(), owners=caller_of(request.scope).bound_owners)
        page = await services.jobs.search(wanted, query.limit, query.cursor, payloads=payloads)
        holds = await services.rules.held()
        records = [job_record(job, holds, payloads=payloads) for job in page.jobs]
        cursor = None if page.next_before is None else str(page.next_before)
        return await large_answer({"jobs": records, "next_cursor": cursor})

    @router.get(
        "/jobs/{id}",
        summary="Look at a job, or wait for its end",
        openapi_extra={"parameters": query_parameters(JobQuery)},
        responses={200: gives(ShownJob, "The job")},
    )
    @needs(Scope.JOBS, Scope.WORKER)
    async def show(request: Request) -> Response:
        job_id = job_id_of(request)
        query = query_of(request, JobQuery)
        wanted = _included(query.include, "attempts")
        job = await visible_job(services, request, job_id)
        if query.wait and not job.status.terminal:
            job = await unless_client_leaves(request.receive, _when_over(services, job, query.wait))
        record = await shown(job)
        if wanted:
            record["attempts"] = attempt_records(await services.history.attempts(job_id))
        return await large_answer(record)

    @router.post(
        "/jobs/{id}/cancel",
        summary="Cancel a job",
        openapi_extra=describes(CancelBody, required=False),
        responses={
            200: gives(ChangedJob, "The job, cancelled"),
            202: gives(ChangedJob, "The job, still running: its worker is told at its next heartbeat"),
        },
    )
    @needs(Scope.JOBS)
    async def cancel(request: Request) -> Response:
        job_id = job_id_of(request)
        body = validate(CancelBody, await read_job_json(request, required=False))
        done = await change(request, Cancel(ACTOR, body.reason), job_id)
        running = done.job.status is JobStatus.RUNNING
        return await large_answer({**await shown(done.job), "changed": done.changed}, 202 if running else 200)

    @router.post(
        "/jobs/{id}/retry",
        summary="Run a job again from the start",
        openapi_extra=describes(RetryBody, required=False),
        responses={200: gives(ChangedJob, "The job, pending")},
    )
    @needs(Scope.JOBS)
    async def retry(request: Request) -> Response:
        job_id = job_id_of(request)
        raw = await read_job_json(request, required=False)
        body = validate(RetryBody, raw)
        # The administrator, who is everybody where there are no keys, takes a running job without being asked twice.
        force = body.force or ("force" not in raw and caller_of(request.scope).is_admin)
        done = await change(request, Retry(ACTOR, force, body.max_attempts, round(1000 * body.delay_seconds)), job_id)
        return await large_answer({**await shown(done.job), "changed": done.changed})

    @router.delete("/jobs/{id}", summary="Remove a job that is over", status_code=204)
    @needs(Scope.JOBS)
    async def delete(request: Request) -> Response:
        await change(request, Delete(ACTOR), job_id_of(request))
        return Response(status_code=204)

    @router.post("/jobs/retry", summary="Retry all jobs that match", openapi_extra=bulk, responses=BULK_DONE)
    @needs(Scope.JOBS)
    async def retry_all(request: Request) -> Response:
        return await change_all(request, Retry(ACTOR), await read_job_json(request))

    @router.post("/jobs/cancel", summary="Cancel all jobs that match", openapi_extra=bulk, responses=BULK_DONE)
    @needs(Scope.JOBS)
    async def cancel_all(request: Request) -> Response:
        return await change_all(request, Cancel(ACTOR), await read_job_json(request))

    async def change(request: Request, action: Cancel | Retry | Delete, job_id: str) -> Changed:
        [answer] = await services.jobs.change(action, [job_id], caller_of(request.scope).bound_owners)
        if isinstance(answer, IngleError):
            raise answer
        return answer

    async def shown(job: Job) -> dict[str, Any]:
        return job_record(job, await services.rules.held())

    async def change_all(request: Request, action: Cancel | Retry, raw: Mapping[str, Any]) -> Response:
        body = validate(BulkBody, raw)
        wanted = replace(_filter_of(body.filter), owners=caller_of(request.scope).bound_owners)
        done = await services.queue.change_all(action, wanted, body.limit, dry_run=body.dry_run)
        return json_answer(
            {"matched": done.matched, "changed": done.changed, "dry_run": body.dry_run, "ids": list(done.ids)}
        )

    return router


async def _when_over(services: JobServices, job: Job, seconds: float) -> Job:
    """The job when it has ended, or as it is after `seconds`."""
    until = services.clock.monotonic() + seconds
    while not job.status.terminal and (left := until - services.clock.monotonic()) > 0:
        await asyncio.sleep(min(LOOK_SECONDS, left))
        job = await services.jobs.get(job.id)
    return job


def _filter_of(given: Mapping[str, Any]) -> JobFilter:
    """The filter of a bulk change: a single value is a list of one, and at least one must be given."""
    lists = {name: [value] if name in FILTERS and isinstance(value, str) else value for name, value in given.items()}
    body = validate(FilterBody, lists, strict=False)
    wanted = body.filter()
    if wanted == replace(JobFilter()):
        raise InvalidFields([Problem(("filter",), "must have at least one field, with a value")])
    return wanted


def _included(text: str, *known: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise InvalidFields([Problem(("include",), f"knows only {', '.join(known)}, not {unknown[0][:40]}")])
    return names
