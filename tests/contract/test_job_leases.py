"""Holding jobs and losing them, as every JobRepository does it: in memory, in SQLite and in PostgreSQL."""

import uuid

import pytest

from domain.errors import (
    JobNotFound,
    LeaseLost,
)
from domain.job import JobStatus, Outcome
from domain.job_repository import (
    Extension,
    Fail,
    Heartbeat,
    Reap,
    Release,
)
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import DONE, LEASE, added, claimed, one_claimed, outcomes, settle


async def test_a_heartbeat_prolongs_the_lease_up_to_the_deadline(keeper: Keeper) -> None:
    job = await one_claimed(keeper, timeout_ms=90_000)
    beat = Heartbeat(job.id, job.lease_token or "", progress={"step": 1})
    await keeper.advance(20_000)
    [extension] = await keeper.jobs.extend([beat])
    assert isinstance(extension, Extension)
    assert extension.lease_expires_at == (job.heartbeat_at or 0) + 20_000 + LEASE
    await keeper.advance(20_000)
    [extension] = await keeper.jobs.extend([beat])
    assert isinstance(extension, Extension)
    assert extension.lease_expires_at == extension.deadline_at == (job.heartbeat_at or 0) + 90_000
    assert (await keeper.jobs.get(job.id)).progress == {"step": 1}


async def test_a_hung_job_that_beats_is_told_and_reaped(keeper: Keeper) -> None:
    job = await one_claimed(keeper, timeout_ms=30_000)
    await keeper.advance(30_001)
    [extension] = await keeper.jobs.extend([Heartbeat(job.id, job.lease_token or "")])
    assert isinstance(extension, Extension)
    assert (extension.cancel_requested, extension.cancel_reason) == (True, "timeout")
    assert await keeper.jobs.sweep(Reap()) == 1
    after = await keeper.jobs.get(job.id)
    assert (after.status, after.ready, after.error_code, after.failure_count) == (
        JobStatus.PENDING,
        False,
        "timeout",
        1,
    )
    assert await outcomes(keeper, job.id) == [(Outcome.TIMEOUT, "timeout")]


async def test_beats_are_answered_one_by_one(keeper: Keeper) -> None:
    await added(keeper, new_job(), new_job())
    one, two = await claimed(keeper, 2)
    answers = await keeper.jobs.extend(
        [Heartbeat(one.id, "wrong"), Heartbeat(two.id, two.lease_token or ""), Heartbeat(str(uuid.uuid4()), "x")]
    )
    assert [type(answer) for answer in answers] == [LeaseLost, Extension, JobNotFound]
    [answer] = await keeper.jobs.extend([Heartbeat(two.id, two.lease_token or "", attempt=2)])
    assert isinstance(answer, LeaseLost)


async def test_a_lost_job_is_claimed_again_and_its_old_holder_changes_nothing(keeper: Keeper) -> None:
    old = await one_claimed(keeper)
    await keeper.advance(LEASE + 1)
    assert await keeper.jobs.sweep(Reap()) == 1
    [new] = await claimed(keeper, worker="w")
    assert (new.id, new.attempt, new.failure_count) == (old.id, 2, 1)
    [beat] = await keeper.jobs.extend([Heartbeat(old.id, old.lease_token or "")])
    assert isinstance(beat, LeaseLost)
    for report in (DONE, Fail("timeout"), Release()):
        with pytest.raises(LeaseLost):
            await settle(keeper, old, report)
    assert (await keeper.jobs.get(old.id)).lease_expires_at == new.lease_expires_at
    assert not (await settle(keeper, new, DONE)).replayed
    assert await outcomes(keeper, old.id) == [(Outcome.LOST, "stale_worker"), (Outcome.COMPLETED, None)]


async def test_an_expired_lease_that_nobody_reaped_still_counts(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    await keeper.advance(LEASE * 2)
    assert (await settle(keeper, job, DONE)).job.status is JobStatus.COMPLETED


async def test_three_crashes_are_the_end(keeper: Keeper) -> None:
    [job_id] = await added(keeper, new_job())
    for _ in range(3):
        assert len(await claimed(keeper)) == 1
        await keeper.advance(LEASE + 1)
        await keeper.jobs.sweep(Reap())
    assert await claimed(keeper) == []
    job = await keeper.jobs.get(job_id)
    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "stale_worker", 3)


async def test_the_jobs_of_a_dead_worker_are_free_at_once(keeper: Keeper) -> None:
    await added(keeper, new_job(), new_job())
    await claimed(keeper, worker="dead")
    await claimed(keeper, worker="alive")
    assert await keeper.jobs.sweep(Reap(["dead"])) == 1
    assert len(await claimed(keeper, 9)) == 1
