"""How many jobs wait and run, for whoever asks often."""

import asyncio
from collections.abc import Sequence

from application.job_counts import FRESH_SECONDS, Counted, JobCounts
from domain.errors import DatabaseUnavailable
from domain.job_limits import QueueState
from domain.job_repository import Claim
from tests.contract.conftest import new_job
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import InMemoryJobRepository


class RulesThatMayBeAway(InMemoryJobRepository):
    """Jobs in memory that count how often they were counted."""

    error: Exception | None = None
    waits = 0.0
    asked = 0

    async def queues(self) -> Sequence[QueueState]:
        """Every queue, if the database is there."""
        self.asked += 1
        await asyncio.sleep(self.waits)
        if self.error is not None:
            raise self.error
        return await super().queues()


async def test_jobs_of_all_queues_are_counted_once_in_a_while() -> None:
    jobs, clock = RulesThatMayBeAway(), FakeClock()
    counts = JobCounts(jobs, clock)
    for profile in ("qwen", "qwen", "whisper"):
        await jobs.add([new_job(profile=profile)])
    await jobs.claim(Claim("w", 1))
    assert set(await asyncio.gather(*(counts.now() for _ in range(5)))) == {Counted(2, 1)}
    await jobs.claim(Claim("w", 1))
    clock.advance(FRESH_SECONDS - 0.1)
    assert (await counts.now(), jobs.asked) == (Counted(2, 1), 1)
    clock.advance(0.1)
    assert (await counts.now(), jobs.asked) == (Counted(1, 2), 2)


async def test_a_database_that_is_away_or_slow_is_no_count_and_no_error() -> None:
    jobs, clock = RulesThatMayBeAway(), FakeClock()
    counts = JobCounts(jobs, clock, patience=0.01)
    jobs.error = DatabaseUnavailable()
    assert await counts.now() is None
    clock.advance(FRESH_SECONDS)
    jobs.error, jobs.waits = None, 60.0
    assert await counts.now() is None
    clock.advance(FRESH_SECONDS)
    jobs.waits = 0.0
    assert await counts.now() == Counted(0, 0)
