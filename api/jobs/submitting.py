"""POST /api/v1/jobs and /jobs/batch: new jobs, one or many."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

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
from api.jobs.answers import BatchAnswer, JobAnswer
from api.jobs.job_body import JobBody, new_job
from api.jobs.reading import SMALL, one_said, read_job_json
from api.jobs.record import job_record
from application.job_queue import new_job_id
from domain.access import Scope
from domain.errors import InvalidRequest
from domain.new_job import NewBatch, NewJob

_MERGED = ("input", "metadata")
KEY_HEADER = {"Idempotency-Key": "The same as idempotency_key in the body"}


class BatchBody(Body):
    """Many jobs of one owner; `defaults` lie under each of them."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    jobs: list[dict[str, Any]]
    idempotency_key: str | None = None
    on_conflict: Literal["error", "return", "skip"] | None = None


def routes(services: JobServices) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["jobs"])

    @router.post(
        "/jobs",
        summary="Submit a job",
        status_code=201,
        openapi_extra=describes(JobBody, headers=KEY_HEADER),
        responses={
            201: gives(JobAnswer, "A new job"),
            200: gives(JobAnswer, "The job that was there: that of the key, or the active one of the dedupe_key"),
        },
    )
    @needs(Scope.JOBS)
    async def submit(request: Request) -> Response:
        raw = await read_job_json(request, limit=services.limits.input_bytes + SMALL)
        new = _single(services, request, raw)
        added = await services.queue.submit([new])
        [placed] = added.placed
        job = placed.job or await services.jobs.get(placed.id)
        headers = {"location": f"/api/v1/jobs/{placed.id}"}
        if added.replayed and new.idempotency_key is not None:
            headers["idempotency-replayed"] = "true"
        record = job_record(job, await services.rules.held())
        return await large_answer(record, 201 if placed.created else 200, headers)

    @router.post(
        "/jobs/batch",
        summary="Submit many jobs, all or none",
        status_code=201,
        openapi_extra=describes(BatchBody, headers=KEY_HEADER),
        responses={201: gives(BatchAnswer, "A new batch"), 200: gives(BatchAnswer, "The batch of that key")},
    )
    @needs(Scope.JOBS)
    async def submit_batch(request: Request) -> Response:
        raw = await read_job_json(request, limit=services.limits.batch_bytes)
        jobs, batch = await asyncio.to_thread(_many, services, request, raw, services.clock.now())
        added = await services.queue.submit(jobs, batch)
        entries = [
            {"index": index, "id": placed.id, "status": placed.status.value, "created": placed.created}
            for index, placed in enumerate(added.placed)
        ]
        answer = {"batch_id": added.batch_id, "count": len(entries), "jobs": entries}
        headers = {"idempotency-replayed": "true"} if added.replayed else {}
        return json_answer(answer, 200 if added.replayed else 201, headers)

    return router


def _single(services: JobServices, request: Request, raw: Mapping[str, Any]) -> NewJob:
    new = new_job(services, request, raw, validate(JobBody, raw), services.clock.now())
    _check_size(services, raw)
    return new


def _check_size(services: JobServices, raw: Mapping[str, Any]) -> None:
    size = len(orjson.dumps(raw["input"]))
    if size > services.limits.input_bytes:
        raise PayloadTooLarge(services.limits.input_bytes)
    if len(orjson.dumps(raw)) - size > SMALL:
        raise PayloadTooLarge(SMALL)


def _many(services: JobServices, request: Request, raw: Mapping[str, Any], now: float) -> tuple[list[NewJob], NewBatch]:
    """Every job of a batch, or the first that is wrong, with its index."""
    body = validate(BatchBody, raw)
    if len(body.jobs) > services.limits.batch_jobs:
        error = PayloadTooLarge(services.limits.batch_bytes)
        error.details["max_jobs"] = services.limits.batch_jobs
        raise error
    if not body.jobs:
        raise InvalidFields([Problem(("jobs",), "must hold at least one job")])
    defaults = dict(body.defaults)
    if body.on_conflict is not None:
        defaults.setdefault("on_conflict", body.on_conflict)
    jobs: list[NewJob] = []
    for index, item in enumerate(body.jobs):
        try:
            merged = _under(defaults, item)
            job = new_job(services, request, merged, validate(JobBody, merged), now, in_batch=True)
            if jobs and job.owner_service != jobs[0].owner_service:
                raise InvalidRequest("all jobs of a batch have one owner", field="owner_service")
            _check_size(services, merged)
        except InvalidRequest as error:
            raise _at(index, error) from None
        except PayloadTooLarge as error:
            error.details["index"] = index
            raise
        jobs.append(job)
    key = one_said(body.idempotency_key, request.headers.get("idempotency-key"), ("idempotency_key", "Idempotency-Key"))
    hashed = None
    if key is not None:
        hashed = canonical_sha256({name: value for name, value in raw.items() if name != "idempotency_key"})
    return jobs, NewBatch(new_job_id(now), jobs[0].owner_service, key, hashed)


def _under(defaults: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **item}
    for name in _MERGED:
        below, above = defaults.get(name), item.get(name)
        if isinstance(below, dict) and isinstance(above, dict):
            merged[name] = {**below, **above}
    return merged


def _at(index: int, error: InvalidRequest) -> InvalidFields:
    if isinstance(error, InvalidFields):
        problems = [Problem(("jobs", index, *problem.loc), problem.msg) for problem in error.problems]
    else:
        problems = [Problem(("jobs", index, *(error.field or "").split(".")), str(error))]
    found = InvalidFields(problems)
    found.details["index"] = index
    return found
