"""GET /api/v1/jobs/{id}/audio: the recording of a job, for the worker that holds it."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from api.auth import needs
from api.docs_page import header_parameters
from api.job_services import JobServices
from api.jobs.binding import check_work
from api.jobs.reading import job_id_of
from application.job_queue import recording_of
from domain.access import Scope
from domain.errors import LeaseRequired, StoredFileNotFound
from domain.job import Job, JobStatus
from domain.job_fence import lease_lost
from domain.job_moves import summary
from domain.stored_file import file_id_of


def routes(services: JobServices) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["jobs: workers"])

    @router.get(
        "/jobs/{id}/audio",
        summary="The recording of a job that is held",
        openapi_extra={"parameters": header_parameters({"X-Lease-Token": "The token that the claim gave"})},
        response_class=FileResponse,
        responses={200: {"content": {"application/octet-stream": {}}, "description": "The upload as it came"}},
    )
    @needs(Scope.WORKER)
    async def audio(request: Request) -> Response:
        await check_work(services, request, job_id_of(request))
        job = await services.jobs.get(job_id_of(request))
        _check_held(job, request.headers.get("x-lease-token"))
        token = recording_of(job.task_type, job.input)
        if token is None:
            raise StoredFileNotFound("this job names no upload: its recording, if it has one, lies at its url")
        file = await services.files.find(file_id_of(token), (job.owner_service,))
        path = await services.files.path_of(file)
        return FileResponse(path, media_type="application/octet-stream", headers={"cache-control": "no-store"})

    return router


def _check_held(job: Job, token: str | None) -> None:
    if token is None:
        raise LeaseRequired("send the lease token that the claim gave as X-Lease-Token", job=summary(job))
    if job.status is not JobStatus.RUNNING or token != job.lease_token:
        raise lease_lost(job, None)
