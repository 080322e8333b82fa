"""What every JobRepository promises: jobs in memory, in SQLite and in PostgreSQL behave alike."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from domain.errors import (
    AlreadyCompleted,
    DedupeConflict,
    IdempotencyMismatch,
    IngleError,
    InvalidTransition,
    JobCompleted,
    JobNotFound,
    LeaseLost,
    LeaseRequired,
    PriorityAboveCap,
    QuotaExceeded,
)
from domain.job import Job, JobStatus, Outcome
from domain.job_limits import OwnerRules, QueueRules
from domain.job_repository import (
    Cancel,
    Changed,
    Claim,
    Complete,
    Delete,
    Expire,
    Extension,
    Fail,
    Heartbeat,
    JobFilter,
    Prune,
    Reap,
    Release,
    Retry,
    Settled,
    Settlement,
)
from domain.new_job import DAY_MS, NewBatch, NewJob, OnConflict
from domain.retry import RetryRules
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


# -- creating ------------------------------------------------------------------------------------------


async def test_a_new_job_is_pending_and_comes_back_as_it_was_sent(keeper: Keeper) -> None:
    sent = new_job(
        input={"b": 1.0, "a": [1, None, "ü"]},
        metadata={"k": "v"},
        owner_ref="beeline/42",
        priority=3,
        retry=RetryRules(5, None, ("a",), ("b",)),
        callback_url="https://x/y",
        callback_headers={"h": "1"},
    )
    [placed] = (await keeper.jobs.add([sent])).placed
    job = await keeper.jobs.get(sent.id)
    assert placed.job == job
    assert (job.status, job.attempt, job.input, job.metadata) == (JobStatus.PENDING, 0, sent.input, sent.metadata)
    assert (job.owner_ref, job.priority, job.retry, job.callback_headers) == ("beeline/42", 3, sent.retry, {"h": "1"})
    assert list(job.input) == ["b", "a"]
    assert await kinds(keeper, sent.id) == ["created"]


async def test_a_job_of_somebody_else_is_not_there(keeper: Keeper) -> None:
    [job_id] = await added(keeper, new_job())
    assert (await keeper.jobs.get(job_id, ["telephony"])).id == job_id
    for wanted, owners in ((job_id, ["other"]), (str(uuid.uuid4()), None)):
        with pytest.raises(JobNotFound):
            await keeper.jobs.get(wanted, owners)
        [answer] = await keeper.jobs.change(Cancel("me"), [wanted], owners)
        assert isinstance(answer, JobNotFound)


async def test_the_same_key_gives_the_same_job_and_another_body_is_refused(keeper: Keeper) -> None:
    first = await keeper.jobs.add([new_job(idempotency_key="k")])
    again = await keeper.jobs.add([new_job(idempotency_key="k")])
    assert (first.replayed, again.replayed) == (False, True)
    assert again.placed[0].id == first.placed[0].id
    with pytest.raises(IdempotencyMismatch):
        await keeper.jobs.add([new_job(idempotency_key="k", request_sha256="1" * 64)])
    other = await keeper.jobs.add([new_job("billing", idempotency_key="k")])
    assert other.placed[0].created


async def test_fifty_twins_with_one_key_leave_one_job(keeper: Keeper) -> None:
    answers = await asyncio.gather(*(keeper.jobs.add([new_job(idempotency_key="k")]) for _ in range(50)))
    assert len({answer.placed[0].id for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert len((await keeper.jobs.search(JobFilter(), 10)).jobs) == 1


async def test_a_dedupe_key_is_taken_while_its_job_is_pending_or_running(keeper: Keeper) -> None:
    [job_id] = await added(keeper, new_job(dedupe_key="d"))
    for _ in range(2):
        with pytest.raises(DedupeConflict) as refusal:
            await keeper.jobs.add([new_job(dedupe_key="d")])
        assert refusal.value.details["active_id"] == job_id
        [placed] = (await keeper.jobs.add([new_job(dedupe_key="d", on_conflict=OnConflict.RETURN)])).placed
        assert (placed.id, placed.created) == (job_id, False)
        await claimed(keeper)
    await settle(keeper, await keeper.jobs.get(job_id), DONE)
    assert (await keeper.jobs.add([new_job(dedupe_key="d")])).placed[0].created


async def test_a_batch_is_all_or_nothing(keeper: Keeper) -> None:
    await added(keeper, new_job(dedupe_key="d"))
    batch = NewBatch(str(uuid.uuid4()), "telephony")
    with pytest.raises(DedupeConflict) as refusal:
        await keeper.jobs.add([*(new_job() for _ in range(9)), new_job(dedupe_key="d")], batch)
    assert refusal.value.details["index"] == 9
    assert len((await keeper.jobs.search(JobFilter(), 100)).jobs) == 1


async def test_a_batch_key_replays_the_whole_answer(keeper: Keeper) -> None:
    def batch(sha: str) -> NewBatch:
        return NewBatch(str(uuid.uuid4()), "telephony", "b", sha)

    items = [new_job(dedupe_key="d"), new_job(dedupe_key="d", on_conflict=OnConflict.SKIP), new_job()]
    first = await keeper.jobs.add(items, batch("1"))
    again = await keeper.jobs.add([new_job() for _ in range(3)], batch("1"))
    assert [one.created for one in first.placed] == [True, False, True]
    assert first.placed[1].id == first.placed[0].id
    assert [(one.id, one.created) for one in again.placed] == [(one.id, one.created) for one in first.placed]
    assert (again.batch_id, again.replayed) == (first.batch_id, True)
    with pytest.raises(IdempotencyMismatch):
        await keeper.jobs.add([new_job()], batch("2"))
    assert len((await keeper.jobs.search(JobFilter(batch_id=[first.batch_id or ""]), 10)).jobs) == 2


async def test_an_owner_has_what_its_rules_allow(keeper: Keeper) -> None:
    await keeper.rules.set_owner(OwnerRules("telephony", max_pending=2, priority_cap=5))
    with pytest.raises(PriorityAboveCap):
        await keeper.jobs.add([new_job(priority=6)])
    await added(keeper, new_job(), new_job())
    with pytest.raises(QuotaExceeded) as refusal:
        await keeper.jobs.add([new_job()])
    assert refusal.value.details["quota"] == "max_pending"
    await added(keeper, new_job("billing"))
    await claimed(keeper, model_profiles=["qwen"])
    await keeper.rules.set_owner(OwnerRules("telephony", input_bytes_per_day=50))
    await added(keeper, new_job())
    with pytest.raises(QuotaExceeded):
        await keeper.jobs.add([new_job(input={"user": "x" * 50})])
    await keeper.advance(DAY_MS)
    await added(keeper, new_job())


async def test_tokens_of_the_day_are_counted(database_keeper: Keeper) -> None:
    keeper = database_keeper
    await keeper.rules.set_owner(OwnerRules("telephony", tokens_per_day=10))
    job = await one_claimed(keeper)
    await settle(keeper, job, Complete(1, "a" * 64, {"prompt_tokens": 7, "completion_tokens": 3}))
    with pytest.raises(QuotaExceeded):
        await keeper.jobs.add([new_job()])


# -- claiming ------------------------------------------------------------------------------------------


async def test_a_claim_takes_by_priority_then_place_in_line_then_age(keeper: Keeper) -> None:
    low, high, ties, late = new_job(priority=-1), new_job(priority=2), new_job("b"), new_job("c")
    await added(keeper, low, ties, late, high)
    taken = await claimed(keeper, 10)
    assert [job.id for job in taken] == [high.id, ties.id, late.id, low.id]
    assert [job.attempt for job in taken] == [1, 1, 1, 1]
    assert len({job.lease_token for job in taken}) == 4
    assert await claimed(keeper) == []


async def test_owners_with_work_share_by_weight(keeper: Keeper) -> None:
    await keeper.rules.set_owner(OwnerRules("heavy", weight=3))
    await keeper.jobs.add([new_job("heavy") for _ in range(12)], NewBatch("b1", "heavy"))
    await keeper.jobs.add([new_job("light") for _ in range(12)], NewBatch("b2", "light"))
    taken = await claimed(keeper, 12)
    assert [job.owner_service for job in taken].count("heavy") == 9


async def test_a_newcomer_does_not_wait_behind_a_long_line(keeper: Keeper) -> None:
    await keeper.jobs.add([new_job("bulk") for _ in range(50)], NewBatch("b", "bulk"))
    await claimed(keeper, 10)
    [job_id] = await added(keeper, new_job("small"))
    assert job_id in [job.id for job in await claimed(keeper, 2)]


async def test_a_claim_takes_only_what_it_names(keeper: Keeper) -> None:
    wanted = new_job(task="transcribe", profile="whisper:base")
    await added(keeper, new_job(), wanted, new_job(task="transcribe"))
    assert await claimed(keeper, 9, task_types=["nothing"]) == []
    taken = await claimed(keeper, 9, task_types=["transcribe"], model_profiles=["whisper:base", "other"])
    assert [job.id for job in taken] == [wanted.id]
    assert await claimed(keeper, 9, job_id=wanted.id) == []
    assert len(await claimed(keeper, 9)) == 2


async def test_a_lease_is_the_claims_or_the_queues_or_the_usual_and_never_beyond_the_timeout(keeper: Keeper) -> None:
    await keeper.rules.set_queue(QueueRules("slow", lease_ms=90_000, timeout_ms=100_000))
    await added(keeper, new_job(), new_job(profile="slow"), new_job(), new_job(timeout_ms=5_000))
    leases = []
    for profile, lease in (("qwen", None), ("slow", None), ("qwen", 15_000), ("qwen", None)):
        [job] = await claimed(keeper, model_profiles=[profile], lease_ms=lease)
        assert job.lease_expires_at is not None and job.heartbeat_at is not None
        leases.append(job.lease_expires_at - job.heartbeat_at)
    assert leases == [LEASE, 90_000, 15_000, 5_000]


async def test_scheduled_jobs_wait_and_expired_ones_fail(keeper: Keeper) -> None:
    later, mortal = new_job(delay_ms=10_000), new_job(expires_ms=5_000)
    await added(keeper, later, mortal)
    await keeper.advance(5_000)
    assert await claimed(keeper, 9) == []
    assert await keeper.jobs.sweep(Expire()) == 1
    job = await keeper.jobs.get(mortal.id)
    assert (job.status, job.error_code, job.failure_count) == (JobStatus.FAILED, "expired", 0)
    await keeper.advance(5_000)
    assert [job.id for job in await claimed(keeper, 9)] == [later.id]


async def test_a_paused_queue_gives_nothing(keeper: Keeper) -> None:
    await added(keeper, new_job(), new_job(profile="other"))
    await keeper.rules.set_queue(QueueRules("qwen", paused=True))
    assert [job.model_profile for job in await claimed(keeper, 9)] == ["other"]
    assert set(await keeper.rules.held()) == {"qwen"}
    await keeper.rules.set_queue(QueueRules("qwen"))
    assert len(await claimed(keeper, 9)) == 1


async def test_no_more_run_than_a_queue_or_an_owner_may(keeper: Keeper) -> None:
    await keeper.rules.set_queue(QueueRules("qwen", max_running=3))
    await keeper.rules.set_owner(OwnerRules("telephony", max_running=1))
    await added(keeper, *(new_job(owner) for owner in ("telephony", "billing") for _ in range(4)))
    taken = await claimed(keeper, 9)
    assert sorted(job.owner_service for job in taken) == ["billing", "billing", "telephony"]
    assert await claimed(keeper, 9) == []
    await settle(keeper, taken[0], DONE)
    assert len(await claimed(keeper, 9)) == 1


async def test_never_more_than_two_run_among_twenty_claimers(keeper: Keeper) -> None:
    await keeper.rules.set_queue(QueueRules("qwen", max_running=2))
    await keeper.jobs.add([new_job() for _ in range(30)], NewBatch("b", "telephony"))
    answers = await asyncio.gather(*(claimed(keeper, 2, f"w{n}") for n in range(20)))
    assert sum(map(len, answers)) == 2
    await keeper.advance(LEASE + 1)
    assert await keeper.jobs.sweep(Reap()) == 2
    answers = await asyncio.gather(*(claimed(keeper, 2, f"w{n}") for n in range(20)))
    assert sum(map(len, answers)) == 2


async def test_a_breaker_holds_a_queue_after_five_failures_then_lets_one_through(keeper: Keeper) -> None:
    await keeper.jobs.add([new_job(max_attempts=9) for _ in range(8)], NewBatch("b", "telephony"))
    for job in await claimed(keeper, 5):
        await settle(keeper, job, Fail("provider_unavailable"))
    state = await keeper.rules.queue("qwen")
    assert state.held_reason == "provider_unavailable"
    assert await claimed(keeper, 9) == []
    await keeper.advance(30_001)
    [job] = await claimed(keeper, 9)
    await settle(keeper, job, DONE)
    assert len(await claimed(keeper, 9)) >= 2


async def test_loaded_profiles_come_first(keeper: Keeper) -> None:
    await added(keeper, *(new_job(profile=profile) for profile in ("a", "b", "c")))
    taken = await claimed(keeper, 1, loaded=["b"])
    assert [job.model_profile for job in taken] == ["b"]


async def test_fifty_claimers_share_jobs_without_a_double(keeper: Keeper) -> None:
    count = 400
    await keeper.jobs.add([new_job() for _ in range(count)], NewBatch("b", "telephony"))
    taken: list[Job] = []

    async def work(number: int) -> None:
        while found := await claimed(keeper, 1 + number % 4, f"w{number}"):
            taken.extend(found)

    await asyncio.gather(*(work(number) for number in range(50)))
    assert len({job.id for job in taken}) == len(taken) == count
    assert {job.attempt for job in taken} == {1}


# -- leases --------------------------------------------------------------------------------------------


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


# -- settling ------------------------------------------------------------------------------------------


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


# -- cancel, retry, delete -----------------------------------------------------------------------------


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


# -- looking up, pruning -------------------------------------------------------------------------------


async def test_lists_are_newest_first_and_pages_neither_repeat_nor_skip(keeper: Keeper) -> None:
    ids = await added(keeper, *(new_job() for _ in range(7)))
    seen: list[str] = []
    before = None
    while True:
        page = await keeper.jobs.search(JobFilter(owner_service=["telephony"]), 3, before)
        seen += [job.id for job in page.jobs]
        await added(keeper, new_job())
        if (before := page.next_before) is None:
            break
    assert seen == ids[::-1]


async def test_filters_match_exactly(keeper: Keeper) -> None:
    percent, plain = new_job(owner_ref="50%_off"), new_job("billing", owner_ref="50xxoff")
    await added(keeper, percent, plain)
    found = await keeper.jobs.search(JobFilter(owner_ref=["50%_off"]), 9)
    assert [job.id for job in found.jobs] == [percent.id]
    for wanted, count in (
        (JobFilter(owners=["billing"]), 1),
        (JobFilter(owners=[]), 0),
        (JobFilter(status=[JobStatus.PENDING, JobStatus.FAILED]), 2),
        (JobFilter(status=[JobStatus.FAILED]), 0),
        (JobFilter(owner_service=["billing", "telephony"], task_type=["llm_chat"], model_profile=["qwen"]), 2),
    ):
        assert len((await keeper.jobs.search(wanted, 9)).jobs) == count
    [job] = (await keeper.jobs.search(JobFilter(owners=["billing"]), 9, payloads=["input"])).jobs
    assert job.input == {"user": "hi"}
    [job] = (await keeper.jobs.search(JobFilter(owners=["billing"]), 9)).jobs
    assert job.input == {}


async def test_what_ended_long_ago_goes_and_what_runs_stays(keeper: Keeper) -> None:
    await added(keeper, new_job(), new_job(), new_job())
    done, failed, running = await claimed(keeper, 3)
    await settle(keeper, done, DONE)
    await settle(keeper, failed, Fail("bad_input"))
    await keeper.advance(8 * DAY_MS)
    assert await keeper.jobs.sweep(Prune()) == 1
    assert {job.id for job in (await keeper.jobs.search(JobFilter(), 9)).jobs} == {failed.id, running.id}
    await keeper.advance(23 * DAY_MS)
    assert await keeper.jobs.sweep(Prune()) == 1
    assert [job.id for job in (await keeper.jobs.search(JobFilter(), 9)).jobs] == [running.id]
