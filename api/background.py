"""`Prefer: respond-async`: the request becomes a job, and the answer tells where to look for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of
from api.canonical import canonical_sha256
from api.errors import InsufficientScope, PayloadTooLarge
from api.job_services import JobServices
from api.request_ids import request_id_of
from api.sampling import MAX_TIMEOUT, deadline_of
from api.services import Services
from application.job_queue import cost_of, new_job_id
from domain.access import Scope
from domain.errors import NotOffered, UnsupportedParameter
from domain.job_repository import Placed
from domain.new_job import NewJob

OWNER = "respond-async"
"""The owner of these jobs, and of what was uploaded for them, where the key is not bound to one."""

ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"description": "Prefer: respond-async: the job that will answer"}}
"""What OpenAPI says of a route that knows the preference."""

_PREFERENCE = "respond-async"


def wants_job(request: Request) -> bool:
    """Whether the client would rather have a job than wait."""
    preferences = ",".join(request.headers.getlist("prefer")).lower()
    return _PREFERENCE in {preference.split(";")[0].strip() for preference in preferences.split(",")}


def jobs_of(services: Services, request: Request) -> JobServices:
    """Where jobs go. Raises NotOffered where none are kept, InsufficientScope where the key may make none."""
    if services.jobs is None:
        raise NotOffered("Prefer: respond-async: this server keeps no jobs, ask without it")
    if not caller_of(request.scope).may(Scope.JOBS):
        raise InsufficientScope([Scope.JOBS])
    return services.jobs


def owner_of(request: Request) -> str:
    """Whose the job is: the owner that the key is bound to, the first of several, else OWNER."""
    return min(caller_of(request.scope).bound_owners or (OWNER,))


def refuse_background(request: Request) -> None:
    """Raise NotOffered for `Prefer: respond-async` where the route only answers at once."""
    if wants_job(request):
        raise NotOffered("Prefer: respond-async: this route only answers at once, send each recording to /transcribe")


def refuse_stream(stream: bool | None) -> None:
    """Raise UnsupportedParameter for a stream that nobody would listen to."""
    if stream:
        raise UnsupportedParameter("stream: a job answers in one piece, leave it out", field="stream")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job that will answer; `replayed` where an earlier request of the same key had made it."""

    placed: Placed
    replayed: bool

    def response(self) -> Response:
        """202, and where to look."""
        headers = {"location": f"/api/v1/jobs/{self.placed.id}", "preference-applied": _PREFERENCE}
        if self.replayed:
            headers["idempotency-replayed"] = "true"
        record = {"id": self.placed.id, "task_id": self.placed.id, "status": self.placed.status.value}
        return json_answer(record, 202, headers)


async def submit_job(
    services: Services,
    request: Request,
    task_type: str,
    model: str,
    given: Mapping[str, Any],
    *,
    same: Mapping[str, Any] | None = None,
) -> Accepted:
    """A job of that type, which is to do with `given` what the route would have done at once.

    An `Idempotency-Key` makes one job of all requests with the same `same`, `given` where that is not said. Raises
    IdempotencyMismatch for another request with that key.
    """
    jobs = jobs_of(services, request)
    if len(orjson.dumps(given)) > jobs.limits.input_bytes:
        raise PayloadTooLarge(jobs.limits.input_bytes)
    key = request.headers.get("idempotency-key")
    asked = {"task_type": task_type, "model": model, "input": given if same is None else same}
    new = NewJob(
        id=new_job_id(services.clock.now()),
        owner_service=owner_of(request),
        task_type=task_type,
        model_profile=model,
        input=given,
        timeout_ms=_timeout_ms(request),
        default_timeout_ms=jobs.defaults.timeout_of(task_type),
        cost=cost_of(task_type, given),
        estimated=True,
        idempotency_key=key,
        request_sha256=None if key is None else canonical_sha256(asked),
        request_id=request_id_of(request.scope),
    )
    added = await jobs.queue.submit([new])
    return Accepted(added.placed[0], added.replayed)


def _timeout_ms(request: Request) -> int | None:
    """What the header allows an attempt; a job has at least a second."""
    if "x-request-timeout" not in request.headers:
        return None
    return max(1000, round(1000 * deadline_of(request, None, MAX_TIMEOUT)))
