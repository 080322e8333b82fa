"""Calls of a JobRepository as the tests of its contract make them."""

from collections.abc import Sequence
from typing import Any

from domain.errors import (
    IngleError,
)
from domain.job import Job, Outcome
from domain.job_repository import (
    Cancel,
    Changed,
    Claim,
    Complete,
    Delete,
    Fail,
    Release,
    Retry,
    Settlement,
)
from domain.new_job import NewJob
from tests.contract.conftest import Keeper, new_job

LEASE = 60_000
DONE = Complete({"text": "ok"}, "a" * 64)
OTHER = Complete({"text": "no"}, "b" * 64)


async def added(keeper: Keeper, *jobs: NewJob) -> list[str]:
    return [(await keeper.jobs.add([job])).placed[0].id for job in jobs]


async def claimed(keeper: Keeper, n: int = 1, worker: str = "w", **fields: Any) -> Sequence[Job]:
    return await keeper.jobs.claim(Claim(worker, n, **fields))


async def one_claimed(keeper: Keeper, **fields: Any) -> Job:
    await added(keeper, new_job(**fields))
    [job] = await claimed(keeper)
    return job


def settle(keeper: Keeper, job: Job, report: Complete | Fail | Release, **fields: Any) -> Any:
    return keeper.jobs.settle(Settlement(job.id, report, **{"lease_token": job.lease_token} | fields))


async def change(keeper: Keeper, action: Cancel | Retry | Delete, job_id: str) -> Changed:
    [answer] = await keeper.jobs.change(action, [job_id])
    if isinstance(answer, IngleError):
        raise answer
    return answer


async def kinds(keeper: Keeper, job_id: str) -> list[str]:
    return [str(event.kind) for event in await keeper.history.events(job_id)]


async def outcomes(keeper: Keeper, job_id: str) -> list[tuple[Outcome, str | None]]:
    return [(attempt.outcome, attempt.error_code) for attempt in await keeper.history.attempts(job_id)]
