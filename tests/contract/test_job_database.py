"""What the databases do beyond the repository's contract: schema, plans, outbox, statistics, trouble."""

import asyncio
import os
import resource
import sqlite3
import traceback
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from domain.errors import DatabaseBusy, DatabaseUnavailable, InvalidRequest, SchemaMismatch, StorageFull
from domain.job import JobStatus
from domain.job_repository import (
    Claim,
    Complete,
    Fail,
    JobFilter,
    Prune,
    Reap,
    Settlement,
)
from domain.new_job import DAY_MS, NewBatch
from infrastructure.persistence.health import SqlDatabaseHealth
from infrastructure.persistence.jobs import SqlJobRepository
from infrastructure.persistence.opening import open_database
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from infrastructure.persistence.schema import head, is_current, migrate
from infrastructure.persistence.sqlite import SqliteDatabase, refuse_network_disk
from infrastructure.persistence.statistics import SqlJobStatistics
from infrastructure.persistence.tables import metadata
from infrastructure.persistence.wake_up import LocalWakeUp, PostgresWakeUp
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
        await kept.run("UPDATE alembic_version SET version_num=:head", head=head())


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
            assert (await SqlDatabaseHealth(kept.database).check())["database"] == "full"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        before = len((await kept.jobs.search(JobFilter(), 100)).jobs)
        assert (await SqlDatabaseHealth(kept.database, refused_seconds=0.0).check())["database"] == "ok"
        assert (await SqlDatabaseHealth(kept.database).check())["database"] == "ok"
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
