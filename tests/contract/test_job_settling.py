"""Reporting how an attempt ended, as every JobRepository does it: in memory, in SQLite and in PostgreSQL."""

import asyncio
import uuid

import pytest

from domain.errors import (
    AlreadyCompleted,
    InvalidTransition,
    JobNotFound,
    LeaseLost,
    LeaseRequired,
)
from domain.job import JobStatus
from domain.job_limits import QueueRules
from domain.job_repository import (
    Fail,
    Release,
    Settled,
    Settlement,
)
from domain.retry import RetryRules
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import DONE, OTHER, added, claimed, kinds, one_claimed, settle


async def test_a_completion_is_written_once(keeper: Keeper) -> None:
    job = await one_claimed(keeper, callback_url="https://x")
    first = await settle(keeper, job, DONE)
    again = await settle(keeper, job, DONE)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.job.result == again.job.result == {"text": "ok"}
    with pytest.raises(AlreadyCompleted):
        await settle(keeper, job, OTHER)
    with pytest.raises(InvalidTransition):
        await settle(keeper, job, Fail("timeout"))
    assert await kinds(keeper, job.id) == ["created", "claimed", "completed"]


async def test_a_job_on_its_first_attempt_may_be_settled_without_a_token(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    for report, settings in ((DONE, {"require_token": True}), (Release(), {})):
        with pytest.raises(LeaseRequired):
            await settle(keeper, job, report, lease_token=None, **settings)
    assert (await settle(keeper, job, DONE, lease_token=None)).job.status is JobStatus.COMPLETED
    assert (await settle(keeper, job, DONE, lease_token=None)).replayed
    with pytest.raises(AlreadyCompleted):
        await settle(keeper, job, OTHER, lease_token=None)


async def test_a_later_attempt_needs_its_token(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    await settle(keeper, job, Release())
    [again] = await claimed(keeper)
    assert again.attempt == 2
    with pytest.raises(LeaseRequired):
        await settle(keeper, again, DONE, lease_token=None)
    with pytest.raises(LeaseLost):
        await settle(keeper, again, DONE, attempt=1)
    with pytest.raises(JobNotFound):
        await keeper.jobs.settle(Settlement(str(uuid.uuid4()), DONE, "t"))


async def test_a_failure_waits_within_its_range_and_spends_the_budget(keeper: Keeper) -> None:
    job = await one_claimed(keeper, max_attempts=2)
    after = (await settle(keeper, job, Fail("timeout", "m" * 5000))).job
    assert (after.status, after.ready, after.failure_count) == (JobStatus.PENDING, False, 1)
    assert len(after.error_message or "") == 4096
    assert 15_000 <= after.available_at - (job.heartbeat_at or 0) <= 30_000
    assert (await settle(keeper, job, Fail("timeout"))).replayed
    await keeper.advance(30_000)
    [again] = await claimed(keeper)
    assert (await settle(keeper, again, Fail("timeout"))).job.status is JobStatus.FAILED


@pytest.mark.parametrize(
    ("report", "status", "failures", "least", "most"),
    [
        (Fail("bad_input"), JobStatus.FAILED, 1, 0, 0),
        (Fail("bad_input", retryable=True), JobStatus.PENDING, 1, 60_000, 120_000),
        (Fail("cancelled", retryable=True), JobStatus.FAILED, 1, 0, 0),
        (Fail("timeout", retryable=False), JobStatus.FAILED, 1, 0, 0),
        (Fail("weird"), JobStatus.PENDING, 1, 60_000, 120_000),
        (Fail("timeout", retry_after_ms=3_600_000), JobStatus.PENDING, 1, 3_600_000, 3_600_000),
        (Fail("rate_limited"), JobStatus.PENDING, 0, 5_000, 10_000),
        (Release(delay_ms=7_000), JobStatus.PENDING, 0, 7_000, 7_000),
    ],
    ids=str,
)
async def test_what_a_code_leads_to(
    keeper: Keeper, report: Fail | Release, status: JobStatus, failures: int, least: int, most: int
) -> None:
    job = await one_claimed(keeper)
    after = (await settle(keeper, job, report)).job
    assert (after.status, after.failure_count) == (status, failures)
    if status is JobStatus.PENDING:
        assert least <= after.available_at - (job.heartbeat_at or 0) <= most


async def test_rules_of_the_job_come_before_those_of_the_queue(keeper: Keeper) -> None:
    await keeper.rules.set_queue(QueueRules("qwen", retry=RetryRules(1, 2, ("bad_input",), ("timeout",))))
    await added(keeper, new_job(), new_job(), new_job(retry=RetryRules(None, None, ("timeout",), ("bad_input",))))
    first, second, own = await claimed(keeper, 3)
    assert (await settle(keeper, first, Fail("timeout"))).job.status is JobStatus.FAILED
    after = (await settle(keeper, second, Fail("bad_input"))).job
    assert after.available_at - (second.heartbeat_at or 0) <= 1_000
    assert (await settle(keeper, own, Fail("timeout"))).job.status is JobStatus.PENDING


async def test_a_second_time_out_of_memory_is_the_end(keeper: Keeper) -> None:
    job = await one_claimed(keeper, max_attempts=9)
    assert (await settle(keeper, job, Fail("out_of_memory"))).job.status is JobStatus.PENDING
    await keeper.advance(60_000)
    [again] = await claimed(keeper)
    assert (await settle(keeper, again, Fail("out_of_memory"))).job.status is JobStatus.FAILED


async def test_a_hundred_snoozes_are_not_counted_and_one_more_fails(keeper: Keeper) -> None:
    [job_id] = await added(keeper, new_job())
    for _ in range(101):
        [job] = await claimed(keeper)
        await settle(keeper, job, Fail("rate_limited"))
        await keeper.advance(300_000)
    after = await keeper.jobs.get(job_id)
    assert (after.status, after.error_code, after.failure_count, after.snooze_count) == (
        JobStatus.FAILED,
        "rate_limited",
        0,
        100,
    )


async def test_of_twenty_reports_with_one_token_one_is_written(keeper: Keeper) -> None:
    job = await one_claimed(keeper)
    reports = [DONE if n % 2 else Fail("bad_input") for n in range(20)]
    answers = await asyncio.gather(*(settle(keeper, job, report) for report in reports), return_exceptions=True)
    settled = [answer for answer in answers if isinstance(answer, Settled)]
    assert [answer.replayed for answer in settled].count(False) == 1
    assert {type(answer) for answer in answers} <= {Settled, InvalidTransition, AlreadyCompleted}
    after = await keeper.jobs.get(job.id)
    assert {answer.job.status for answer in settled} == {after.status}
    assert len(await kinds(keeper, job.id)) == 3
