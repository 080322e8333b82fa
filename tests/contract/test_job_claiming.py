"""Taking jobs, as every JobRepository does it: in memory, in SQLite and in PostgreSQL."""

import asyncio
import uuid

from domain.job import Job, JobStatus
from domain.job_limits import OwnerRules, QueueRules
from domain.job_repository import (
    Cancel,
    Expire,
    Fail,
    Reap,
)
from domain.new_job import NewBatch
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import DONE, LEASE, added, change, claimed, settle
from tests.databases import EPOCH_MS


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


async def test_a_claim_by_id_takes_that_job_and_no_other_and_obeys_what_rules_every_claim(keeper: Keeper) -> None:
    await keeper.rules.set_queue(QueueRules("paused", paused=True))
    await keeper.rules.set_queue(QueueRules("narrow", max_running=1))
    best, wanted, paused = new_job(priority=5), new_job(), new_job(profile="paused")
    later, first, second = new_job(delay_ms=9_000), new_job(profile="narrow"), new_job(profile="narrow")
    await added(keeper, best, wanted, paused, later, first, second)

    async def by_id(job_id: str) -> list[str]:
        return [job.id for job in await claimed(keeper, 4, job_id=job_id)]

    assert await by_id(wanted.id) == [wanted.id]
    assert [await by_id(one) for one in (wanted.id, paused.id, later.id, str(uuid.uuid4()))] == [[]] * 4
    assert await by_id(second.id) == [second.id]
    assert await by_id(first.id) == []
    await change(keeper, Cancel("owner"), best.id)
    assert await by_id(best.id) == []
    await keeper.advance(9_000)
    assert await by_id(later.id) == [later.id]


async def test_the_profiles_that_may_be_claimed_are_told(keeper: Keeper) -> None:
    for profile in ("b", "a", "paused", "a"):
        await added(keeper, new_job(profile=profile), new_job(task="other", profile=profile))
    await added(keeper, new_job(profile="later", delay_ms=5_000))
    await keeper.rules.set_queue(QueueRules("paused", paused=True))
    assert sorted(await keeper.rules.waiting()) == ["a", "b"]
    await claimed(keeper, 9, model_profiles=["b"])
    await keeper.advance(5_000)
    # Nobody has promoted it yet: the claim does.
    assert sorted(await keeper.rules.waiting()) == ["a", "later"]
    assert len(await claimed(keeper, 9, model_profiles=["later"])) == 1
    assert sorted(await keeper.rules.waiting()) == ["a"]


async def test_a_paused_queue_gives_nothing(keeper: Keeper) -> None:
    await added(keeper, new_job(), new_job(profile="other"))
    await keeper.rules.set_queue(QueueRules("qwen", paused=True))
    assert [job.model_profile for job in await claimed(keeper, 9)] == ["other"]
    assert set((await keeper.rules.held()).profiles) == {"qwen"}
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
    assert (state.held_until, state.held_reason) == (EPOCH_MS + 30_000, "provider_unavailable")
    assert await claimed(keeper, 9) == []
    await keeper.advance(30_001)
    for state in (await keeper.rules.queue("qwen"), *await keeper.rules.queues()):
        assert (state.held_until, state.held_reason) == (None, None)
    [job] = await claimed(keeper, 9)
    await settle(keeper, job, DONE)
    assert len(await claimed(keeper, 9)) >= 2


async def test_a_breaker_counts_failures_in_a_row(keeper: Keeper) -> None:
    codes = [*["provider_unavailable"] * 4, "bad_input", *["provider_unavailable"] * 4]
    await keeper.jobs.add([new_job(max_attempts=9) for _ in range(12)], NewBatch("b", "telephony"))
    for code in codes:
        [job] = await claimed(keeper)
        await settle(keeper, job, Fail(code))
    assert (await keeper.rules.queue("qwen")).held_until is None
    [job] = await claimed(keeper)
    await settle(keeper, job, Fail("provider_unavailable"))
    assert (await keeper.rules.queue("qwen")).held_until == EPOCH_MS + 30_000
    await keeper.advance(30_001)
    # Half open: another failure closes nothing.
    [job] = await claimed(keeper, 9)
    await settle(keeper, job, Fail("bad_input"))
    assert len(await claimed(keeper, 9)) == 1


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
