"""GET /task/{id}, also under /api: a job as the clients of task queues know it."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import large_answer
from api.auth import caller_of, needs
from api.bodies import Body
from api.docs_page import gives, query_parameters
from api.job_services import JobServices
from api.jobs.answers import TaskAnswer
from api.jobs.reading import job_id_of, query_of
from domain.access import Scope
from domain.errors import JobNotFound
from domain.job import Job, JobStatus

_STATES = {
    JobStatus.PENDING: "PENDING",
    JobStatus.RUNNING: "STARTED",
    JobStatus.COMPLETED: "SUCCESS",
    JobStatus.FAILED: "FAILURE",
    JobStatus.CANCELLED: "REVOKED",
}


class TaskQuery(Body):
    """Whether an unknown id is a task that nobody has begun yet, as it is to Celery."""

    legacy: bool = False


def routes(services: JobServices) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["jobs"])

    @router.get(
        "/task/{id}",
        summary="A job as a task",
        openapi_extra={"parameters": query_parameters(TaskQuery)},
        responses={200: gives(TaskAnswer, "The task")},
    )
    @router.get("/api/task/{id}", include_in_schema=False)
    @needs(Scope.FILES, Scope.JOBS)
    async def task(request: Request) -> Response:
        query = query_of(request, TaskQuery)
        owners = caller_of(request.scope).bound_owners
        try:
            record = task_record(await services.jobs.get(job_id_of(request), owners))
        except JobNotFound:
            if not query.legacy:
                raise
            record = _record(str(request.path_params["id"]), _STATES[JobStatus.PENDING])
        return await large_answer(record)

    return router


def task_record(job: Job) -> dict[str, Any]:
    """The four fields: `result` only on success, `error` only on failure."""
    if job.status is JobStatus.PENDING and job.attempt > 0:
        return _record(job.id, "RETRY")
    result = job.result if job.status is JobStatus.COMPLETED else None
    error = f"{job.error_code}: {job.error_message or ''}".rstrip(": ") if job.status is JobStatus.FAILED else None
    return _record(job.id, _STATES[job.status], result, error)


def _record(task_id: str, state: str, result: Any = None, error: str | None = None) -> dict[str, Any]:
    return {"id": task_id, "status": state, "result": result, "error": error}
