"""Putting jobs in line, as every JobRepository does it: in memory, in SQLite and in PostgreSQL."""

import asyncio
import uuid

import pytest

from domain.errors import (
    DedupeConflict,
    IdempotencyMismatch,
    JobNotFound,
    PriorityAboveCap,
    QuotaExceeded,
)
from domain.job import JobStatus
from domain.job_limits import OwnerRules
from domain.job_repository import (
    Cancel,
    Complete,
    JobFilter,
)
from domain.new_job import DAY_MS, NewBatch, OnConflict
from domain.retry import RetryRules
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import DONE, added, claimed, kinds, one_claimed, settle


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
        with pytest.raises(JobNotFound):
            await keeper.history.attempts(wanted, owners)
        with pytest.raises(JobNotFound):
            await keeper.history.events(wanted, 0, owners)


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
