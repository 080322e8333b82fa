"""What the databases do beyond the repository's contract: schema, plans, outbox, statistics, trouble."""

import asyncio
import os
import random
import resource
import sqlite3
import traceback
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from application.job_ports import DeliveryStatus, Tried, WorkerRecord
from domain.errors import DatabaseBusy, DatabaseUnavailable, InvalidRequest, SchemaMismatch, StorageFull
from domain.job import JobStatus
from domain.job_repository import Cancel, Claim, Complete, Delete, Fail, JobFilter, Prune, Reap, Settlement
from domain.new_job import DAY_MS, NewBatch
from infrastructure.persistence.health import SqlDatabaseHealth
from infrastructure.persistence.jobs import SqlJobRepository
from infrastructure.persistence.opening import open_database
from infrastructure.persistence.outbox import SqlOutbox
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from infrastructure.persistence.schema import is_current, migrate
from infrastructure.persistence.sqlite import SqliteDatabase, refuse_network_disk
from infrastructure.persistence.statistics import SqlJobStatistics
from infrastructure.persistence.tables import metadata
from infrastructure.persistence.wake_up import LocalWakeUp, PostgresWakeUp
from infrastructure.persistence.workers import SqlDispatchable, SqlWorkerRegister
from tests.contract.conftest import Keeper, new_job
from tests.databases import POSTGRES_URL, Kept, sqlite_jobs

DONE = Complete({"text": "ok"}, "a" * 64, {"prompt_tokens": 3, "completion_tokens": 2})


@pytest.fixture
def kept(database_keeper: Keeper) -> Kept:
    assert database_keeper.kept is not None
    return database_keeper.kept


async def finished(kept: Kept, report: Any = DONE, **fields: Any) -> str:
    await kept.jobs.add([new_job(**fields)])
    [job] = await kept.jobs.claim(Claim("w", 1))
    await kept.jobs.settle(Settlement(job.id, report, job.lease_token))
    return job.id


# -- schema --------------------------------------------------------------------------------------------


async def test_the_migrations_make_the_tables_of_the_code(kept: Kept) -> None:
    def differences(connection: Any) -> list[Any]:
        found: list[Any] = compare_metadata(MigrationContext.configure(connection), metadata)
        return found

    found = await kept.database.write(differences)
    assert [one for one in found if "test_clock" not in str(one)] == []


async def test_two_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    databases = [SqliteDatabase(tmp_path / "jobs.db") for _ in range(2)]
    assert [await SqlDatabaseHealth(one).check() for one in databases] == [{"database": "ok", "schema": "behind"}] * 2
    await asyncio.gather(*map(migrate, databases))
    assert [await SqlDatabaseHealth(one).check() for one in databases] == [{"database": "ok", "schema": "ok"}] * 2
    await asyncio.gather(*(one.close() for one in databases))


async def test_a_newer_schema_is_refused(kept: Kept) -> None:
    await kept.run("UPDATE alembic_version SET version_num='9999'")
    try:
        with pytest.raises(SchemaMismatch):
            await migrate(kept.database)
        assert not await is_current(kept.database)
    finally:
        await kept.run("UPDATE alembic_version SET version_num='0001'")


# -- trouble -------------------------------------------------------------------------------------------


async def test_a_write_waits_for_another_process_and_gives_up_in_words(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "jobs.db", busy_timeout=0.3)
    await migrate(database)
    repository = SqlJobRepository(database, LocalWakeUp())
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(repository.add([new_job()]))
    await asyncio.sleep(0.1)
    other.execute("ROLLBACK")
    assert (await waiting).placed[0].created
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy):
        await repository.add([new_job()])
    other.execute("ROLLBACK")
    other.close()
    await repository.add([new_job()])
    assert len((await repository.search(JobFilter(), 9)).jobs) == 2
    await database.close()


async def test_a_full_disk_refuses_writes_and_recovers(tmp_path: Path) -> None:
    async with sqlite_jobs(tmp_path) as kept:
        largest = max(file.stat().st_size for file in os.scandir(tmp_path))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 50_000, hard))
        try:
            with pytest.raises(StorageFull):
                for _ in range(50):
                    await kept.jobs.add([new_job(input={"user": "x" * 50_000})])
            assert (await SqlDatabaseHealth(kept.database).check())["database"] == "ok"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        before = len((await kept.jobs.search(JobFilter(), 100)).jobs)
        await kept.jobs.add([new_job()])
        assert len((await kept.jobs.search(JobFilter(), 100)).jobs) == before + 1
        assert await kept.rows("PRAGMA integrity_check") == [("ok",)]


async def test_somebody_elses_failure_does_not_fail_a_neighbour_in_the_group(tmp_path: Path) -> None:
    async with sqlite_jobs(tmp_path) as kept:
        broken = kept.run("INSERT INTO jobs (id) VALUES ('x')")
        answers = await asyncio.gather(
            kept.jobs.add([new_job()]), broken, kept.jobs.add([new_job()]), return_exceptions=True
        )
        assert isinstance(answers[1], Exception)
        assert len((await kept.jobs.search(JobFilter(), 9)).jobs) == 2


async def test_an_unreachable_database_says_so_without_its_password() -> None:
    database, _ = open_database("postgresql://ingle:s3cret@127.0.0.1:1/none")
    assert await SqlDatabaseHealth(database).check() == {"database": "down", "schema": "unknown"}
    with pytest.raises(DatabaseUnavailable) as refusal:
        await database.read(lambda connection: connection.execute(text("SELECT 1")).scalar())
    assert "s3cret" not in "".join(traceback.format_exception(refusal.value))
    await database.close()


@pytest.mark.postgres
async def test_connections_that_the_server_dropped_are_replaced(postgres_keeper: Keeper) -> None:
    kept = postgres_keeper.kept
    assert kept is not None
    await kept.jobs.add([new_job()])
    other = PostgresDatabase(POSTGRES_URL, Bounds(pool_size=1))
    pids = [pid for (pid,) in await kept.rows("SELECT pg_backend_pid()")]
    await other.write(lambda c: c.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pids[0]}).all() and None)
    await other.close()
    assert len((await kept.jobs.search(JobFilter(), 9)).jobs) == 1


def test_sqlite_refuses_a_network_disk(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    with pytest.raises(DatabaseUnavailable, match="nfs4"):
        refuse_network_disk(tmp_path / "jobs.db", mounts)
    refuse_network_disk(Path("/var/jobs.db"), mounts)


@pytest.mark.parametrize("url", ["mysql://root:s3cret@h/x", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_an_address_of_another_kind_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        open_database(url)
    assert "s3cret" not in str(refusal.value)


async def test_two_processes_on_one_file_share_the_work(tmp_path: Path) -> None:
    databases = [SqliteDatabase(tmp_path / "jobs.db", synchronous="off") for _ in range(2)]
    await migrate(databases[0])
    repositories = [SqlJobRepository(one, LocalWakeUp(), fresh_seconds=0) for one in databases]
    await repositories[0].add([new_job() for _ in range(100)], NewBatch("b", "telephony"))
    taken: list[str] = []

    async def work(repository: SqlJobRepository) -> None:
        while found := await repository.claim(Claim("w", 3)):
            taken.extend(job.id for job in found)

    await asyncio.gather(*(work(one) for one in repositories for _ in range(5)))
    assert len(set(taken)) == len(taken) == 100
    await asyncio.gather(*(one.close() for one in databases))


@pytest.mark.postgres
async def test_new_work_wakes_the_listeners_of_another_process(postgres_schema: str) -> None:
    databases = [PostgresDatabase(POSTGRES_URL, Bounds(pool_size=2, schema=postgres_schema)) for _ in range(2)]
    here, there = (PostgresWakeUp(one) for one in databases)
    heard: asyncio.Queue[set[str]] = asyncio.Queue()
    await here.start()
    await there.start()
    stop = there.listen(lambda profiles: heard.put_nowait(set(profiles)))
    here.ring(["qwen", "whisper"])
    assert await asyncio.wait_for(heard.get(), 5) == {"qwen", "whisper"}
    stop()
    await asyncio.gather(here.close(), there.close())
    await asyncio.gather(*(one.close() for one in databases))


async def test_what_a_database_cannot_keep_is_replaced_in_messages_and_refused_in_payloads(kept: Kept) -> None:
    job_id = await finished(kept, Fail("bad_input", "a\0b\ud800"))
    assert (await kept.jobs.get(job_id)).error_message == "a\ufffdb?"
    for value in (float("nan"), "\ud800"):
        with pytest.raises(InvalidRequest):
            await kept.jobs.add([new_job(input={"user": value})])
    await kept.jobs.add([new_job(input={"user": "\0", "n": 2**70})])
    [job] = await kept.jobs.claim(Claim("w", 1))
    assert job.input == {"user": "\0", "n": 2**70}


async def test_a_clock_that_is_set_back_reaps_nothing_and_gives_no_negative_time(kept: Kept) -> None:
    await kept.jobs.add([new_job()])
    await kept.advance(-3_600_000)
    [job] = await kept.jobs.claim(Claim("w", 1))
    await kept.advance(-3_600_000)
    assert await kept.jobs.sweep(Reap()) == 0
    await kept.jobs.settle(Settlement(job.id, DONE, job.lease_token))
    assert min(ms for (ms,) in await kept.rows("SELECT ms FROM job_events WHERE ms IS NOT NULL")) == 0
    stats = await SqlJobStatistics(kept.database).stats(3_600_000)
    assert stats["queue"]["oldest_ready_age_seconds"] == 0


async def test_pruning_beside_claims_and_lists_disturbs_neither(kept: Kept) -> None:
    for _ in range(10):
        await finished(kept)
    await kept.advance(8 * DAY_MS)
    await kept.jobs.add([new_job() for _ in range(40)], NewBatch("b", "telephony"))

    async def claim() -> list[str]:
        taken: list[str] = []
        while found := await kept.jobs.claim(Claim("w", 2)):
            taken += [job.id for job in found]
        return taken

    async def pages() -> list[str]:
        seen: list[str] = []
        before = None
        while True:
            page = await kept.jobs.search(JobFilter(status=[JobStatus.PENDING, JobStatus.RUNNING]), 7, before)
            seen += [job.id for job in page.jobs]
            if (before := page.next_before) is None:
                return seen

    taken, _, seen = await asyncio.gather(claim(), kept.jobs.sweep(Prune()), pages())
    assert len(set(taken)) == len(taken) == len(set(seen)) == len(seen) == 40
    assert len((await kept.jobs.search(JobFilter(status=[JobStatus.COMPLETED]), 99)).jobs) == 0


@pytest.mark.postgres
async def test_a_listener_whose_connection_is_lost_listens_again(postgres_schema: str) -> None:
    database = PostgresDatabase(POSTGRES_URL, Bounds(pool_size=2, schema=postgres_schema))
    here, there = PostgresWakeUp(database, reconnect_seconds=0.01), PostgresWakeUp(database, reconnect_seconds=0.01)
    await here.start()
    heard = asyncio.Event()
    here.listen(lambda _: heard.set())
    ended = await database.write(
        lambda c: c.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name=:name AND query LIKE 'LISTEN%'"
            ),
            {"name": postgres_schema},
        ).all()
    )
    assert len(ended) == 1
    await there.start()
    async with asyncio.timeout(5):
        while not heard.is_set():
            there.ring(["qwen"])
            await asyncio.sleep(0.02)
    await asyncio.gather(here.close(), there.close())
    await database.close()


# -- what is written beside ----------------------------------------------------------------------------


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


async def test_a_broker_is_told_of_ready_jobs_once_in_thirty_seconds(kept: Kept) -> None:
    dispatchable = SqlDispatchable(kept.database)
    [one] = (await kept.jobs.add([new_job()])).placed
    await kept.jobs.add([new_job(task="other"), new_job(delay_ms=5_000)], NewBatch("b", "telephony"))
    assert await dispatchable.undispatched(9, ["llm_chat"]) == [(one.id, "llm_chat", 0)]
    assert await dispatchable.undispatched(9, ["llm_chat"]) == []
    await kept.advance(30_000)
    assert len(await dispatchable.undispatched(9, ["llm_chat"])) == 1


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
