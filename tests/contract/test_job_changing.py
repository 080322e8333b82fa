"""What owners ask for, as every JobRepository does it: in memory, in SQLite and in PostgreSQL."""

import asyncio

import pytest

from domain.errors import (
    DedupeConflict,
    InvalidTransition,
    JobCompleted,
    JobNotFound,
    LeaseLost,
)
from domain.job import JobStatus, Outcome
from domain.job_repository import (
    Cancel,
    Delete,
    Extension,
    Fail,
    Heartbeat,
    Release,
    Retry,
)
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import DONE, LEASE, added, change, claimed, kinds, one_claimed, outcomes, settle


async def test_cancel_in_each_state(keeper: Keeper) -> None:
    pending, done, failed = await added(keeper, new_job(), new_job(priority=9), new_job(priority=8))
    for report in (DONE, Fail("bad_input")):
        [job] = await claimed(keeper)
        await settle(keeper, job, report)
    assert (await change(keeper, Cancel("me", "why"), pending)).job.status is JobStatus.CANCELLED
    assert not (await change(keeper, Cancel("me"), pending)).changed
    with pytest.raises(JobCompleted):
        await change(keeper, Cancel("me"), done)
    with pytest.raises(InvalidTransition):
        await change(keeper, Cancel("me"), failed)


@pytest.mark.parametrize("report", [Fail("timeout"), Release(), Fail("rate_limited")], ids=str)
async def test_a_running_job_is_cancelled_when_its_worker_gives_it_back(keeper: Keeper, report: Fail | Release) -> None:
    job = await one_claimed(keeper)
    asked = await change(keeper, Cancel("me", "enough"), job.id)
    assert (asked.changed, asked.job.status) == (True, JobStatus.RUNNING)
    [extension] = await keeper.jobs.extend([Heartbeat(job.id, job.lease_token or "")])
    assert isinstance(extension, Extension)
    assert (extension.cancel_requested, extension.cancel_reason) == (True, "enough")
    after = (await settle(keeper, job, report)).job
    assert (after.status, after.failure_count) == (JobStatus.CANCELLED, 0)
    assert (await kinds(keeper, job.id))[-2:] == ["cancel_requested", "cancelled"]


async def test_a_completion_wins_over_a_cancel_that_was_only_asked_for(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    await change(keeper, Cancel("me"), job.id)
    assert (await settle(keeper, job, DONE)).job.status is JobStatus.COMPLETED


async def test_cancel_and_complete_at_once_end_in_one_state(keeper: Keeper) -> None:
    for _ in range(20):
        job = await one_claimed(keeper)
        await asyncio.gather(settle(keeper, job, DONE), change(keeper, Cancel("me"), job.id), return_exceptions=True)
        after = await keeper.jobs.get(job.id)
        assert (after.status, after.result) == (JobStatus.COMPLETED, {"text": "ok"})


async def test_retry_in_each_state(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    with pytest.raises(InvalidTransition):
        await change(keeper, Retry("me"), job.id)
    assert (await change(keeper, Retry("me", force=True), job.id)).job.status is JobStatus.PENDING
    with pytest.raises(LeaseLost):
        await settle(keeper, job, DONE)
    assert not (await change(keeper, Retry("me"), job.id)).changed
    [job] = await claimed(keeper)
    await settle(keeper, job, Fail("bad_input"))
    after = (await change(keeper, Retry("me", max_attempts=7, delay_ms=5_000), job.id)).job
    assert (after.status, after.failure_count, after.error_code, after.max_attempts, after.ready) == (
        JobStatus.PENDING,
        0,
        None,
        7,
        False,
    )
    await keeper.advance(5_000)
    [job] = await claimed(keeper)
    assert job.attempt == 3
    await settle(keeper, job, DONE)
    with pytest.raises(JobCompleted):
        await change(keeper, Retry("me", force=True), job.id)
    assert [outcome for outcome, _ in await outcomes(keeper, job.id)] == [
        Outcome.SUPERSEDED,
        Outcome.FAILED,
        Outcome.COMPLETED,
    ]


async def test_an_expired_lease_may_be_retried_without_force(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    await keeper.advance(LEASE + 1)
    assert (await change(keeper, Retry("me"), job.id)).job.status is JobStatus.PENDING


async def test_a_retry_does_not_bring_back_a_second_active_job_of_one_key(keeper: Keeper) -> None:
    job = await one_claimed(keeper, dedupe_key="d")
    await settle(keeper, job, Fail("bad_input"))
    [active] = await added(keeper, new_job(dedupe_key="d"))
    with pytest.raises(DedupeConflict) as refusal:
        await change(keeper, Retry("me"), job.id)
    assert refusal.value.details["active_id"] == active


async def test_only_what_is_over_can_be_deleted(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    with pytest.raises(InvalidTransition):
        await change(keeper, Delete("me"), job.id)
    await settle(keeper, job, DONE)
    await change(keeper, Delete("me"), job.id)
    with pytest.raises(JobNotFound):
        await keeper.jobs.get(job.id)
