"""What databases keep beside jobs: deliveries, places in line, workers, statistics."""

import random

import pytest

from application.job_ports import Call, DeliveryStatus, Tried, WorkerRecord
from domain.job import JobStatus
from domain.job_repository import (
    Cancel,
    Claim,
    Delete,
    Fail,
    Heartbeat,
    Promote,
    Prune,
    Reap,
    Release,
    Settlement,
)
from domain.new_job import DAY_MS, NewBatch
from infrastructure.persistence.outbox import SqlOutbox
from infrastructure.persistence.statistics import SqlJobStatistics
from infrastructure.persistence.workers import SqlDispatchable, SqlWorkerRegister
from tests.contract.conftest import Keeper, new_job
from tests.contract.test_job_database import DONE, finished
from tests.databases import EPOCH_MS, Kept


@pytest.fixture
def kept(database_keeper: Keeper) -> Kept:
    assert database_keeper.kept is not None
    return database_keeper.kept


async def test_each_end_writes_one_delivery_and_a_dispatcher_takes_it_once(kept: Kept) -> None:
    outbox = SqlOutbox(kept.database)
    done = await finished(kept, callback_url="https://x/y", callback_headers={"a": "b"})
    failed = await finished(kept, Fail("bad_input"), callback_url="https://x/y")
    await finished(kept, callback_url=None)
    [pending] = (await kept.jobs.add([new_job(callback_url="https://x/y")])).placed
    await kept.jobs.change(Cancel("me"), [pending.id])
    first, second = await outbox.take(20), await outbox.take(20)
    assert {(one.job_id, one.event) for one in first} == {
        (done, "job.completed"),
        (failed, "job.failed"),
        (pending.id, "job.cancelled"),
    }
    assert (second, {one.tries for one in first}) == ([], {1})
    await kept.advance(60_000)
    again = await outbox.take(1)
    await outbox.keep_body(again[0].id, "{}")
    await outbox.keep_body(again[0].id, "other")
    await outbox.tried(again[0].id, Tried(DeliveryStatus.GONE, 410))
    assert {one.status for one in await outbox.deliveries(9)} == {DeliveryStatus.GONE}
    assert await outbox.is_gone("telephony", "https://x/y")
    assert not await outbox.is_gone("billing", "https://x/y")
    await outbox.redeliver(again[0].id)
    [taken] = await outbox.take(9)
    assert (taken.body, taken.tries) == ("{}", 1)
    await kept.advance(1)
    await outbox.tried(taken.id, Tried(DeliveryStatus.DELIVERED, 200))
    assert not await outbox.is_gone("telephony", "https://x/y")


async def test_deliveries_are_listed_newest_first_in_pages(kept: Kept) -> None:
    for _ in range(5):
        await finished(kept, callback_url="https://x/y")
        await kept.advance(1)
    outbox = SqlOutbox(kept.database)
    everything = await outbox.deliveries(9)
    first = await outbox.deliveries(3)
    rest = await outbox.deliveries(3, first[-1].id)
    assert [one.id for one in [*first, *rest]] == [one.id for one in everything]
    assert [one.created_at for one in everything] == sorted((one.created_at for one in everything), reverse=True)
    assert await outbox.deliveries(9, status=DeliveryStatus.FAILED) == []
    assert len(await outbox.deliveries(9, job_id=everything[0].job_id)) == 1


async def test_jobs_with_a_delivery_on_its_way_are_not_pruned(kept: Kept) -> None:
    await finished(kept, callback_url="https://x/y")
    await kept.advance(40 * DAY_MS)
    assert await kept.jobs.sweep(Prune()) == 0
    outbox = SqlOutbox(kept.database)
    [delivery] = await outbox.take(1)
    await outbox.tried(delivery.id, Tried(DeliveryStatus.DELIVERED, 200))
    assert await kept.jobs.sweep(Prune()) == 1


async def test_a_pruned_line_keeps_its_place(kept: Kept) -> None:
    for _ in range(5):
        job_id = await finished(kept)
    last = (await kept.jobs.get(job_id)).fair_tag
    await kept.advance(8 * DAY_MS)
    assert await kept.jobs.sweep(Prune()) == 5
    [placed] = (await kept.jobs.add([new_job("new")])).placed
    assert placed.job is not None
    assert placed.job.fair_tag == last


async def test_payloads_may_go_before_their_rows(kept: Kept) -> None:
    job_id = await finished(kept)
    await kept.advance(DAY_MS)
    await kept.jobs.sweep(Prune(payload_ms=DAY_MS))
    job = await kept.jobs.get(job_id)
    assert (job.input, job.result) == ({}, None)
    assert job.payload_purged_at is not None


async def test_a_number_never_comes_back(kept: Kept) -> None:
    job_id = await finished(kept)
    seq = (await kept.jobs.get(job_id)).seq
    await kept.jobs.change(Delete("me"), [job_id])
    [placed] = (await kept.jobs.add([new_job()])).placed
    assert (await kept.jobs.get(placed.id)).seq > seq


async def test_workers_are_known_while_they_are_seen(kept: Kept) -> None:
    register = SqlWorkerRegister(kept.database)
    await register.seen(WorkerRecord("w", "host", "embedded", "host", 42, ("qwen",)))
    await kept.jobs.add([new_job()])
    await kept.jobs.claim(Claim("w", 1))
    await kept.advance(10_000)
    await register.seen(WorkerRecord("w", "host", "embedded", "host", 42, ("qwen", "b")))
    [worker] = await register.workers()
    assert (worker.running, worker.profiles, worker.last_seen_at - worker.started_at) == (1, ("qwen", "b"), 10_000)
    await register.forget(["w"])
    assert await register.workers() == []


async def test_a_heartbeat_is_a_sign_of_its_worker_and_one_that_is_gone_for_a_day_is_forgotten(kept: Kept) -> None:
    register = SqlWorkerRegister(kept.database)
    await register.seen(WorkerRecord("busy", "busy", "http", "", 0))
    await register.seen(WorkerRecord("idle", "idle", "http", "", 0))
    await kept.jobs.add([new_job()])
    [job] = await kept.jobs.claim(Claim("busy", 1))
    await kept.advance(20_000)
    await kept.jobs.extend([Heartbeat(job.id, job.lease_token or "")])
    seen = {one.worker_id: one.last_seen_at for one in await register.workers()}
    assert seen == {"busy": EPOCH_MS + 20_000, "idle": EPOCH_MS}
    await kept.advance(86_400_000)
    await kept.jobs.sweep(Prune())
    assert await kept.rows("SELECT count(*) FROM workers") == [(0,)]


async def test_a_broker_is_told_of_ready_jobs_once_in_thirty_seconds(kept: Kept) -> None:
    dispatchable = SqlDispatchable(kept.database)
    [one] = (await kept.jobs.add([new_job()])).placed
    await kept.jobs.add([new_job(task="other"), new_job(delay_ms=5_000)], NewBatch("b", "telephony"))
    assert await dispatchable.undispatched(9, ["llm_chat"]) == [Call(one.id, "llm_chat", 0)]
    assert await dispatchable.undispatched(9, ["llm_chat"]) == []
    await kept.advance(30_000)
    assert len(await dispatchable.undispatched(9, ["llm_chat"])) == 1


async def test_what_no_broker_was_told_of_comes_before_what_it_may_have_lost(kept: Kept) -> None:
    dispatchable = SqlDispatchable(kept.database)
    old = [(await kept.jobs.add([new_job()])).placed[0].id for _ in range(3)]
    assert [call.job_id for call in await dispatchable.undispatched(2, ["llm_chat"])] == old[:2]
    await kept.advance(30_000)
    new = [(await kept.jobs.add([new_job()])).placed[0].id for _ in range(2)]
    told = await dispatchable.undispatched(4, ["llm_chat"])
    assert [call.job_id for call in told] == [old[2], *new, old[0]]


async def test_what_could_not_be_told_is_to_be_told_and_so_is_what_comes_back(kept: Kept) -> None:
    dispatchable = SqlDispatchable(kept.database)
    [placed] = (await kept.jobs.add([new_job()])).placed
    statistics = SqlJobStatistics(kept.database, dispatched=["llm_chat"])

    async def told() -> tuple[int, list[Call]]:
        await kept.advance(1_000)
        dispatch = (await statistics.stats(60_000))["dispatch"]
        assert dispatch["oldest_undispatched_age"] >= dispatch["undispatched"]
        return dispatch["undispatched"], list(await dispatchable.undispatched(9, ["llm_chat"]))

    assert await told() == (1, [Call(placed.id, "llm_chat", 0)])
    assert await told() == (0, [])
    await dispatchable.untold([placed.id])
    assert await told() == (1, [Call(placed.id, "llm_chat", 0)])
    [job] = await kept.jobs.claim(Claim("w", 1))
    await dispatchable.untold([placed.id])
    await kept.jobs.settle(Settlement(job.id, Release(), job.lease_token))
    await kept.jobs.sweep(Promote())
    assert await told() == (1, [Call(placed.id, "llm_chat", 1)])
    await kept.jobs.add([new_job(task="other")])
    assert await told() == (0, [])
    assert (await SqlJobStatistics(kept.database).stats(60_000))["dispatch"]["undispatched"] == 0


async def test_statistics_equal_a_recount_after_a_random_history(kept: Kept) -> None:
    chance = random.Random(7)
    statistics = SqlJobStatistics(kept.database)
    ids: list[str] = []
    for _ in range(25):
        jobs = [new_job(chance.choice("ab"), profile=chance.choice("xy"), max_attempts=2) for _ in range(3)]
        ids += [(await kept.jobs.add([job])).placed[0].id for job in jobs]
        for job in await kept.jobs.claim(Claim("w", 3)):
            report = chance.choice([DONE, DONE, Fail("timeout"), Fail("bad_input"), None])
            if report is not None:
                await kept.jobs.settle(Settlement(job.id, report, job.lease_token))
        await kept.jobs.change(Cancel("me"), [chance.choice(ids)])
        await kept.jobs.change(Delete("me"), [chance.choice(ids)])
        await kept.advance(chance.choice([1_000, 50_000, 120_000, 5 * 3_600_000]))
        await kept.jobs.sweep(Reap())
        if chance.random() < 0.5:
            await statistics.fold()
    for _ in range(2):
        stats = await statistics.stats(3_600_000)
        rows = await kept.rows("SELECT status, count(*) FROM jobs GROUP BY status")
        assert {status: count for status, count in stats["jobs"].items() if count} == dict(rows)
        for owner in stats["by_owner"]:
            [(pending,)] = await kept.rows(
                "SELECT count(*) FROM jobs WHERE status='pending' AND owner_service=:o", o=owner["owner_service"]
            )
            assert owner["pending"] == pending
        assert stats["errors"]["by_code"]["timeout"]["total"] > 0
        await kept.advance(4 * DAY_MS)
        await statistics.fold()
    [(minutes,)] = await kept.rows("SELECT count(*) FROM job_rollup WHERE span='minute'")
    assert minutes == 0
    alone = await statistics.stats(3_600_000, ["a"])
    assert {owner["owner_service"] for owner in alone["by_owner"]} <= {"a"}


async def test_a_queue_is_told_to_be_held_only_while_it_is(kept: Kept) -> None:
    await kept.jobs.add([new_job(max_attempts=9) for _ in range(6)], NewBatch("b", "telephony"))
    for job in await kept.jobs.claim(Claim("w", 5)):
        await kept.jobs.settle(Settlement(job.id, Fail("provider_unavailable"), job.lease_token))

    async def held_until() -> int | None:
        [queue] = (await SqlJobStatistics(kept.database).stats(60_000))["by_model_profile"]
        found: int | None = queue["held_until"]
        return found

    assert await held_until() == EPOCH_MS + 30_000
    await kept.advance(30_000)
    assert await held_until() is None


async def test_times_and_throughput_are_those_of_the_window(kept: Kept) -> None:
    statistics = SqlJobStatistics(kept.database)
    await kept.jobs.add([new_job()])
    await kept.advance(1_000)
    [job] = await kept.jobs.claim(Claim("w", 1))
    await kept.advance(2_000)
    await kept.jobs.settle(Settlement(job.id, DONE, job.lease_token))
    for _ in range(2):
        stats = await statistics.stats(3_600_000)
        assert 1_000 <= stats["latency"]["queue_wait"]["p50_ms"] <= 1_250
        assert 2_000 <= stats["latency"]["run"]["p99_ms"] <= 2_500
        assert 3_000 <= stats["latency"]["end_to_end"]["p95_ms"] <= 3_750
        assert stats["tokens"] == {"in": 3, "out": 2}
        assert stats["attempts"] == {"mean": 1.0, "gt1_share": 0.0, "rescued_1h": 0}
        assert stats["throughput"]["completed_per_minute"]["1h"] == round(1 / 60, 2)
        await kept.advance(120_000)
        await statistics.fold()
    assert stats["jobs"][str(JobStatus.COMPLETED)] == 1
