"""POST /generate as a job: the same body, the same answer, and nobody who waits on a connection."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Message

from api.auth import caller_of_a_job
from api.errors import InvalidFields, Problem
from api.native.analysis import analyse
from api.native.completion import complete
from api.native.generate import is_analysis
from api.services import Services
from application.job_handlers import JobDone, Tell
from application.job_profiles import ModelProfiles
from domain.access import Caller
from domain.job import Job

_NAMES = ("model", "model_id")


class GenerateHandler:
    """Answers bodies of POST /generate in one piece."""

    def __init__(self, services: Services, profiles: ModelProfiles) -> None:
        self._services = services
        self._profiles = profiles

    async def __call__(self, job: Job, tell: Tell) -> JobDone:
        """The JSON of the direct answer."""
        del tell
        body = dict(job.input)
        for name in _NAMES:
            if body.get(name) not in (None, job.model_profile):
                raise InvalidFields([Problem((name,), "is not the job's model_profile")])
        body |= {"model": self._profiles.model_of(job.model_profile), "stream": False}
        body.pop("model_id", None)
        answer = analyse if is_analysis(job.input) else complete
        caller = caller_of_a_job(self._services.keys)
        response = await answer(self._services, _request_of(job, caller), body)
        result: Mapping[str, Any] = orjson.loads(bytes(response.body))
        return JobDone(result, result.get("usage"))


def _request_of(job: Job, caller: Caller) -> Request:
    """The call that the job stands for: its client is the owner, and never leaves."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "query_string": b"",
        "headers": [(b"x-request-timeout", f"{min(86_400, job.timeout_ms // 1000)}".encode())],
        "client": (f"job:{job.owner_service}", 0),
        "state": {"request_id": job.id, "caller": caller},
    }
    return Request(scope, _nothing_comes)


async def _nothing_comes() -> Message:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
