"""Every route of the job API."""

from fastapi import APIRouter

from api.job_services import JobServices
from api.jobs import audio, operating, owning, submitting, tasks, watching, working
from api.jobs.reading import SMALL
from api.services import Limits

PREFIX = "/api/v1"


def routes(services: JobServices, limits: Limits) -> APIRouter:
    """The routes of all pages."""
    router = APIRouter()
    router.include_router(tasks.routes(services))
    for page in (
        submitting.routes(services),
        working.routes(services),
        audio.routes(services),
        owning.routes(services),
        watching.routes(services, limits),
        operating.routes(services),
    ):
        router.include_router(page, prefix=PREFIX)
    return router


def body_limits(services: JobServices) -> dict[str, int]:
    """The largest body of each route that takes more than others, in bytes."""
    limits = services.limits
    return {
        f"{PREFIX}/jobs": limits.input_bytes + SMALL,
        f"{PREFIX}/jobs/batch": limits.batch_bytes,
        f"{PREFIX}/jobs/{{id}}/complete": limits.result_bytes + SMALL,
    }
