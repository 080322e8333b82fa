"""A database that is locked, full, read-only or behind, over HTTP: 503 with a word, never a 500, then it recovers."""

import asyncio
import random
import resource
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import httpx2
import pytest
from sqlalchemy import text

from domain.job_repository import Reap
from infrastructure.persistence.database import POSTGRES, SQLITE, Database
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from infrastructure.persistence.schema import in_own_schema, migrate
from infrastructure.persistence.sqlite import SqliteDatabase
from tests.api.jobs.conftest import BODY, KeeperClock, Office, job_services
from tests.api.problems import refused
from tests.api.world import World, in_process
from tests.databases import POSTGRES_URL, kept, prepare, with_test_clock
from tests.fakes.webhooks import FakeReceiver


@asynccontextmanager
async def office_on(database: Database, world: World, folder: Path) -> AsyncIterator[Office]:
    """Jobs in `database`, whatever state it is in."""
    keeping, receiver = kept(database), FakeReceiver()
    services = job_services(keeping, KeeperClock(), receiver, folder / "files")
    try:
        async with in_process(world.app(jobs=services)) as client:
            yield Office(client, services, world, receiver, keeping, keeping.advance)
    finally:
        await database.close()


async def readiness(client: httpx2.AsyncClient) -> tuple[int, dict[str, str]]:
    answer = await client.get("/readyz")
    assert (await client.get("/healthz")).status_code == 200
    return answer.status_code, answer.json()["checks"]


def told_to_come_back(answer: httpx2.Response, code: str) -> None:
    problem = refused(answer, 503, code)
    assert int(answer.headers["retry-after"]) >= 1
    said = answer.text.lower()
    assert not any(word in said for word in ("sqlite", "asyncpg", "psycopg", "locked", "sqlalchemy", "select")), problem


async def test_requests_wait_for_a_file_that_is_locked_and_give_up_in_words(
    world: World, migrated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    await asyncio.to_thread(lambda: path.write_bytes(migrated.read_bytes()))
    database = SqliteDatabase(path, busy_timeout=1.0, spelling=with_test_clock(SQLITE))
    other = sqlite3.connect(path, isolation_level=None)
    async with office_on(database, world, tmp_path) as office:
        other.execute("BEGIN IMMEDIATE")
        waiting = [asyncio.create_task(office.post("/jobs", BODY)) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0.1)
        assert (await office.get("/jobs")).status_code == 200
        other.execute("ROLLBACK")
        assert [(await one).status_code for one in waiting] == [201] * 3
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for answer in await asyncio.gather(*(office.post("/jobs", BODY) for _ in range(20))):
            told_to_come_back(answer, "database_busy")
        # Everybody has waited once: those who came while the first waited are a group after it.
        assert time.monotonic() - began < 5
        told_to_come_back(await office.post("/jobs/claim", {"worker_id": "w"}), "database_busy")
        other.execute("ROLLBACK")
        assert len(await office.claim()) == 3
    other.close()


@pytest.mark.postgres
async def test_requests_wait_for_a_row_that_is_locked_and_give_up_in_words(
    world: World, postgres_schema: str, tmp_path: Path
) -> None:
    bounds = Bounds(pool_size=4, lock=1.0, schema=postgres_schema)
    database = PostgresDatabase(POSTGRES_URL, bounds, spelling=with_test_clock(POSTGRES))
    other = await asyncpg.connect(POSTGRES_URL, server_settings={"search_path": postgres_schema})
    async with office_on(database, world, tmp_path) as office:
        await office.kept.empty()
        await office.client.patch(f"/api/v1/owners/{BODY['owner_service']}", json={"max_pending": 5})
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT * FROM owners FOR UPDATE")
        waiting = asyncio.create_task(office.post("/jobs", BODY))
        await asyncio.wait({waiting}, timeout=0.1)
        await transaction.rollback()
        assert (await waiting).status_code == 201
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT * FROM owners FOR UPDATE")
        told_to_come_back(await office.post("/jobs", BODY), "database_busy")
        await transaction.rollback()
        await office.submit()
    await other.close()


async def refuses_writes_and_recovers(office: Office, stop: Any, let_go: Any) -> None:
    await office.submit()
    assert (await readiness(office.client))[0] == 200
    await stop()
    try:
        told_to_come_back(await office.post("/jobs", BODY | {"input": {"user": "x" * 200_000}}), "storage_full")
        told_to_come_back(await office.post("/jobs/claim", {"worker_id": "w"}), "storage_full")
        status, checks = await readiness(office.client)
        assert (status, checks["database"]) == (503, "full")
        assert (await office.get("/jobs")).status_code == 200
    finally:
        await let_go()
    # What was refused counts for some seconds; this is what comes after them.
    office.kept.database.refused_at = -1e9
    assert (await readiness(office.client))[0] == 200
    assert len(await office.claim(limit=9)) == 1


async def test_a_full_disk_is_not_ready_and_recovers(world: World, migrated: Path, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await asyncio.to_thread(lambda: path.write_bytes(migrated.read_bytes()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def stop() -> None:
        # What is written goes there first.
        written = (tmp_path / "jobs.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (written, hard))

    async def let_go() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    async with office_on(SqliteDatabase(path, spelling=with_test_clock(SQLITE)), world, tmp_path) as office:
        await refuses_writes_and_recovers(office, stop, let_go)
        assert await office.kept.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.postgres
async def test_a_read_only_database_is_not_ready_and_recovers(world: World, tmp_path: Path) -> None:
    name = f"ingle_{uuid.uuid4().hex}"
    other = await asyncpg.connect(POSTGRES_URL)
    await other.execute(f"CREATE DATABASE {name}")

    async def read_only(wanted: str) -> None:
        await other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {wanted}")
        # It holds for new sessions only.
        await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname=$1", name)
        await database.close()

    url = POSTGRES_URL.rpartition("/")[0] + f"/{name}"
    database = PostgresDatabase(url, Bounds(pool_size=4), spelling=with_test_clock(POSTGRES))
    try:
        await prepare(database)
        async with office_on(database, world, tmp_path) as office:
            await refuses_writes_and_recovers(office, lambda: read_only("on"), lambda: read_only("off"))
    finally:
        await database.close()
        await other.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await other.close()


async def not_ready_until_migrated(databases: list[Database], world: World, folder: Path) -> None:
    async with office_on(databases[0], world, folder) as office:
        status, checks = await readiness(office.client)
        assert (status, checks) == (503, {"database": "ok", "schema": "behind"})
        await asyncio.gather(*map(migrate, databases))
        assert await readiness(office.client) == (200, {"database": "ok", "schema": "ok"})
        # The schema of a version before this one.
        await databases[0].write(lambda c: c.execute(text("UPDATE alembic_version SET version_num='0001'")) and None)
        status, checks = await readiness(office.client)
        assert (status, checks["schema"]) == (503, "behind")
    for database in databases[1:]:
        await database.close()


async def test_two_servers_that_start_at_once_on_a_file_are_ready_when_one_has_migrated(
    world: World, tmp_path: Path
) -> None:
    await not_ready_until_migrated([SqliteDatabase(tmp_path / "jobs.db") for _ in range(2)], world, tmp_path)


@pytest.mark.postgres
async def test_two_servers_that_start_at_once_on_postgres_are_ready_when_one_has_migrated(
    world: World, tmp_path: Path
) -> None:
    async with in_own_schema(POSTGRES_URL) as schema:
        databases: list[Database] = [PostgresDatabase(POSTGRES_URL, Bounds(2, schema=schema)) for _ in range(2)]
        await not_ready_until_migrated(databases, world, tmp_path)


async def test_statistics_equal_a_recount_of_the_list(kept_office: Office) -> None:
    office, lots = kept_office, random.Random(3)
    for _ in range(60):
        owner = lots.choice(("telephony", "billing"))
        match lots.randrange(5):
            case 0 | 1:
                await office.submit(owner_service=owner, task_type=lots.choice(("llm_chat", "other")))
            case 2:
                for job in await office.claim(limit=lots.randrange(1, 4)):
                    report = {"lease_token": job["lease_token"]}
                    verb = lots.choice(("complete", "fail", "release", ""))
                    more: dict[str, dict[str, Any]] = {
                        "complete": {"result": 1},
                        "fail": {"category": lots.choice(("timeout", "bad_input"))},
                    }
                    if verb:
                        await office.post(f"/jobs/{job['id']}/{verb}", report | more.get(verb, {}))
            case 3:
                jobs = (await office.get("/jobs", limit=5)).json()["jobs"]
                for job in jobs[:2]:
                    await office.post(f"/jobs/{job['id']}/{lots.choice(('cancel', 'retry'))}", {})
            case 4:
                await office.advance(lots.choice((1_000, 40_000, 61_000)))
                await office.sweep(Reap())
                await office.services.statistics.fold()
    jobs = (await office.get("/jobs", limit=100)).json()["jobs"]
    for whose in (None, "telephony", "billing"):
        mine = [job for job in jobs if whose in (None, job["owner_service"])]
        stats = (await office.get("/stats", **({"owner_service": whose} if whose else {}))).json()
        counts = Counter(job["status"] for job in mine)
        assert stats["jobs"] == {name: counts[name] for name in stats["jobs"]}
        phases = Counter(job["phase"] for job in mine)
        names = ("ready", "scheduled", "retry_wait", "held", "lease_expired", "cancelling")
        assert {name: stats["queue"][name] for name in names} == {name: phases[name] for name in names}
        still_open = Counter(job["task_type"] for job in mine if job["status"] in ("pending", "running"))
        assert {one["task_type"]: one["pending"] + one["running"] for one in stats["by_task_type"]} == still_open
    refused(await office.get("/stats", window="2h"), 422, "validation_error")


async def test_workers_are_listed_while_they_ask_or_beat(kept_office: Office) -> None:
    office = kept_office
    job, token = await office.claimed()
    [worker] = (await office.get("/workers")).json()["workers"]
    assert (worker["worker_id"], worker["kind"], worker["running"], worker["alive"]) == ("w-1", "http", 1, True)
    await office.advance(31_000)
    [worker] = (await office.get("/workers")).json()["workers"]
    assert worker["alive"] is False
    await office.post(f"/jobs/{job}/heartbeat", {"lease_token": token})
    for page in ("/workers", "/stats"):
        [worker] = (await office.get(page)).json()["workers"]
        assert worker["alive"] is True
