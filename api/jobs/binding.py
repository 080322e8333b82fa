"""What a key that is bound to owners or to model profiles may do with jobs."""

from collections.abc import Sequence

from starlette.requests import Request

from api.auth import caller_of
from api.errors import InvalidFields, OwnerForbidden, Problem, ProfileForbidden
from api.job_services import JobServices
from domain.access import Scope
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
    owners = caller.bound_owners if caller.may(Scope.JOBS) else ()
    profiles = caller.bound_profiles if caller.may(Scope.WORKER) else ()
    if owners is None or profiles is None:
        return await services.jobs.get(job_id)
    return await services.jobs.get(job_id, owners, profiles)


async def check_work(services: JobServices, request: Request, job_id: str) -> None:
    """Raise JobNotFound for a job of a profile that the worker's key is not bound to."""
    profiles = caller_of(request.scope).bound_profiles
    if profiles is not None:
        await services.jobs.get(job_id, (), profiles)
