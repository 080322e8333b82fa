"""Claims that wait, and workers that leave while they do."""

import asyncio
from collections.abc import Sequence

from application.attendance import Attendance
from application.claim_desk import ClaimDesk
from domain.job import Job, JobStatus
from domain.job_repository import Claim
from tests.contract.conftest import new_job
from tests.databases import EPOCH_MS
from tests.fakes.clock import FakeClock
from tests.fakes.gate import Gate
from tests.fakes.jobs import InMemoryJobRepository
from tests.fakes.workers import InMemoryWorkers


class SlowJobs(InMemoryJobRepository):
    """Answers a claim, which is written, when `gate` is open."""

    def __init__(self) -> None:
        super().__init__(lambda: EPOCH_MS)
        self.gate = Gate()
        self.claimed = asyncio.Event()

    async def claim(self, claim: Claim) -> Sequence[Job]:
        jobs = await super().claim(claim)
        self.claimed.set()
        await self.gate.pass_through()
        return jobs


async def test_a_worker_that_leaves_while_its_claim_is_written_holds_nothing() -> None:
    jobs = SlowJobs()
    await jobs.add([new_job()])
    jobs.gate.shut()
    claim = asyncio.create_task(ClaimDesk(jobs, jobs.bell).claim(Claim("w", 1)))
    await jobs.claimed.wait()
    claim.cancel()
    await asyncio.sleep(0)
    jobs.gate.open()
    await asyncio.wait({claim})
    assert claim.cancelled()
    [job] = await jobs.claim(Claim("next", 1))
    assert (job.status, job.attempt, job.failure_count, job.snooze_count) == (JobStatus.RUNNING, 2, 0, 1)


async def test_a_worker_that_asks_is_noted() -> None:
    jobs, register = InMemoryJobRepository(lambda: EPOCH_MS), InMemoryWorkers()
    desk = ClaimDesk(jobs, jobs.bell, Attendance(register, FakeClock()))
    await desk.claim(Claim("gpu-1", 1, model_profiles=("b", "a")))
    assert register.records["gpu-1"].profiles == ("a", "b")


async def test_whoever_comes_after_the_end_is_given_nothing() -> None:
    jobs = InMemoryJobRepository(lambda: EPOCH_MS)
    await jobs.add([new_job()])
    desk = ClaimDesk(jobs, jobs.bell)
    desk.stop()
    assert await desk.claim(Claim("w", 1), 30.0) == ()
