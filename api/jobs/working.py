"""What workers say: claim, heartbeat, complete, fail, release."""

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, large_answer
from api.auth import needs
from api.bodies import Body, validate
from api.canonical import canonical_sha256
from api.docs_page import describes, gives
from api.errors import InvalidFields, PayloadTooLarge, Problem
from api.job_services import JobServices
from api.jobs.answers import BeatAnswer, ClaimAnswer, ReportedJob
from api.jobs.binding import check_work, profiles_for
from api.jobs.job_body import Code
from api.jobs.reading import SMALL, job_id_of, one_said, read_job_json
from api.jobs.record import claimed_record, job_record, moment
from api.streaming import unless_client_leaves
from application.off_loop import off_loop
from domain.access import Scope
from domain.errors import IngleError, LeaseRequired
from domain.job_moves import summary
from domain.job_repository import Claim, Complete, Fail, Heartbeat, Release, Settlement
from domain.new_job import NAME

MAX_PROGRESS = 4096
TOKEN_HEADER = {"X-Lease-Token": "The same as lease_token in the body"}
REPORTED: dict[int | str, dict[str, Any]] = {200: gives(ReportedJob, "The job as it is now")}
Name = Annotated[str, Field(pattern=f"^(?:{NAME.pattern})$")]
Names = Annotated[list[Name], Field(max_length=50)]


class ClaimBody(Body):
    """A worker's wish for work; an empty list means any."""

    worker_id: Name
    limit: int | None = Field(None, ge=1, le=100)
    task_types: Names = Field(default_factory=list)
    model_profiles: Names = Field(default_factory=list)
    lease_seconds: int | None = Field(None, le=3600)
    wait_seconds: float = Field(0, ge=0, le=30)
    loaded_profiles: Names = Field(default_factory=list)


class LeaseBody(Body):
    """By what a worker shows that the job is its own."""

    attempt: int | None = Field(None, ge=1)
    lease_token: str | None = Field(None, max_length=128)


class BeatBody(LeaseBody):
    """A sign of life."""

    progress: dict[str, Any] | None = None


class CompleteBody(LeaseBody):
    """The work is done. `result` is any JSON, null too, but must be there."""

    result: Any
    usage: dict[str, Any] | None = None


class FailBody(LeaseBody):
    """The work failed: `category` and `error_code` are one field."""

    category: Code | None = None
    error_code: Code | None = None
    message: str | None = None
    retry_after_seconds: float = Field(0, ge=0, le=3600)
    retryable: bool | None = None


class ReleaseBody(LeaseBody):
    """The work goes back undone."""

    delay_seconds: float = Field(0, ge=0, le=3600)
    reason: str | None = None


def routes(services: JobServices) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["jobs: workers"])

    @router.post(
        "/jobs/claim",
        summary="Take jobs, or wait for some",
        openapi_extra=describes(ClaimBody),
        responses={200: gives(ClaimAnswer, "Jobs that are yours until their leases end")},
    )
    @needs(Scope.WORKER)
    async def claim(request: Request) -> Response:
        raw = await read_job_json(request)
        body = validate(ClaimBody, raw)
        if "limit" in raw and body.limit is None:
            raise InvalidFields([Problem(("limit",), "must be between 1 and 100")])
        least = services.limits.lease_seconds
        if body.lease_seconds is not None and body.lease_seconds < least:
            raise InvalidFields([Problem(("lease_seconds",), f"must be between {least} and 3600")])
        wish = Claim(
            body.worker_id,
            body.limit or services.claim_limit,
            body.task_types,
            profiles_for(request, body.model_profiles),
            None if body.lease_seconds is None else 1000 * body.lease_seconds,
            body.loaded_profiles,
        )
        # A client that leaves while it waits must not be given a job.
        jobs = await unless_client_leaves(request.receive, services.desk.claim(wish, body.wait_seconds))
        return await large_answer({"jobs": [claimed_record(job) for job in jobs]})

    @router.post(
        "/jobs/{id}/heartbeat",
        summary="Prolong the lease, tell progress, hear of a cancel",
        openapi_extra=describes(BeatBody, required=False, headers=TOKEN_HEADER),
        responses={200: gives(BeatAnswer, "The lease")},
    )
    @needs(Scope.WORKER)
    async def heartbeat(request: Request) -> Response:
        job_id = job_id_of(request)
        body = validate(BeatBody, await read_job_json(request, required=False))
        await check_work(services, request, job_id)
        if body.progress is not None and len(orjson.dumps(body.progress)) > MAX_PROGRESS:
            raise PayloadTooLarge(MAX_PROGRESS)
        token = _token(request, body)
        if token is None:
            raise LeaseRequired(job=summary(await services.jobs.get(job_id)))
        [extension] = await services.jobs.extend([Heartbeat(job_id, token, body.attempt, body.progress)])
        if isinstance(extension, IngleError):
            raise extension
        return json_answer(
            {
                "id": job_id,
                "status": "running",
                "attempt": extension.attempt,
                "lease_expires_at": moment(extension.lease_expires_at),
                "deadline_at": moment(extension.deadline_at),
                "cancel_requested": extension.cancel_requested,
                "cancel_reason": extension.cancel_reason,
            }
        )

    @router.post(
        "/jobs/{id}/complete",
        summary="Report a result",
        openapi_extra=describes(CompleteBody, headers=TOKEN_HEADER),
        responses=REPORTED,
    )
    @needs(Scope.WORKER)
    async def complete(request: Request) -> Response:
        job_id = job_id_of(request)
        most = services.limits.result_bytes
        raw = await read_job_json(request, limit=most + SMALL)
        body = validate(CompleteBody, raw)
        report = await off_loop(raw, lambda: _complete(body, raw, most))
        return await settle(request, job_id, body, report)

    @router.post(
        "/jobs/{id}/fail",
        summary="Report a failure",
        openapi_extra=describes(FailBody, headers=TOKEN_HEADER),
        responses=REPORTED,
    )
    @needs(Scope.WORKER)
    async def fail(request: Request) -> Response:
        job_id = job_id_of(request)
        body = validate(FailBody, await read_job_json(request))
        code = one_said(body.category, body.error_code, ("category", "error_code"))
        if code is None:
            raise InvalidFields([Problem(("category",), "category or error_code must say what went wrong")])
        report = Fail(code, body.message, round(1000 * body.retry_after_seconds), body.retryable)
        return await settle(request, job_id, body, report)

    @router.post(
        "/jobs/{id}/release",
        summary="Give a job back undone",
        openapi_extra=describes(ReleaseBody, required=False, headers=TOKEN_HEADER),
        responses=REPORTED,
    )
    @needs(Scope.WORKER)
    async def release(request: Request) -> Response:
        job_id = job_id_of(request)
        body = validate(ReleaseBody, await read_job_json(request, required=False))
        return await settle(request, job_id, body, Release(round(1000 * body.delay_seconds), body.reason))

    async def settle(request: Request, job_id: str, body: LeaseBody, report: Complete | Fail | Release) -> Response:
        await check_work(services, request, job_id)
        settled = await services.jobs.settle(
            Settlement(job_id, report, _token(request, body), body.attempt, services.require_lease_token)
        )
        record = job_record(settled.job, await services.rules.held())
        return await large_answer({**record, "replayed": settled.replayed})

    return router


def _complete(body: CompleteBody, raw: Mapping[str, Any], most: int) -> Complete:
    """The report of a result of at most `most` bytes. Raises PayloadTooLarge, also for what is beside the result."""
    size = len(orjson.dumps(body.result))
    if size > most:
        raise PayloadTooLarge(most)
    if len(orjson.dumps(raw)) - size > SMALL:
        raise PayloadTooLarge(SMALL)
    return Complete(body.result, canonical_sha256(body.result), body.usage)


def _token(request: Request, body: LeaseBody) -> str | None:
    token: str | None = one_said(
        body.lease_token, request.headers.get("x-lease-token"), ("lease_token", "X-Lease-Token")
    )
    return token
