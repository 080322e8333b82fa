"""What a key that is bound to owners or to model profiles may do with jobs."""

from collections.abc import Sequence

from starlette.requests import Request

from api.auth import caller_of
from api.errors import InvalidFields, OwnerForbidden, Problem, ProfileForbidden
from api.job_services import JobServices
from domain.access import Scope
from domain.errors import JobNotFound
from domain.job import Job


def owner_for(request: Request, named: str | None) -> str:
    """Whose the new job is: the owner that is named, or the only one that the key is bound to."""
    caller = caller_of(request.scope)
    owner = caller.sole_owner if named is None else named
    if owner is None:
        raise InvalidFields([Problem(("owner_service",), "is missing: name on whose behalf the job is")])
    if not caller.acts_for(owner):
        raise OwnerForbidden(f"this key acts for {', '.join(sorted(caller.owners))} only")
    return owner


def profiles_for(request: Request, named: Sequence[str]) -> Sequence[str]:
    """The model profiles of a claim: those that are named, or all that the key is bound to. Empty means any."""
    caller = caller_of(request.scope)
    if not all(map(caller.runs, named)):
        raise ProfileForbidden(f"this key runs jobs of {', '.join(sorted(caller.profiles))} only")
    return named or sorted(caller.bound_profiles or ())


async def visible_job(services: JobServices, request: Request, job_id: str) -> Job:
    """The job, for who may see it as its owner or as its worker. Raises JobNotFound as for one that is not there."""
    caller = caller_of(request.scope)
    job = await services.jobs.get(job_id)
    as_owner = caller.may(Scope.JOBS) and caller.acts_for(job.owner_service)
    if as_owner or (caller.may(Scope.WORKER) and caller.runs(job.model_profile)):
        return job
    raise JobNotFound


async def check_work(services: JobServices, request: Request, job_id: str) -> None:
    """Raise JobNotFound for a job of a profile that the worker's key is not bound to."""
    caller = caller_of(request.scope)
    if caller.bound_profiles is not None and not caller.runs((await services.jobs.get(job_id)).model_profile):
        raise JobNotFound
