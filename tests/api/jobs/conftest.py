"""The job API over jobs in memory, in a SQLite file and in PostgreSQL."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.job_services import JobServices
from application.attendance import Attendance
from application.claim_desk import ClaimDesk
from application.job_queue import SPEECH_TYPES, JobDefaults, JobQueue
from application.ports import Clock
from application.stored_files import StoredFiles
from application.webhooks import Webhooks, WebhookSecrets
from domain.job_repository import Chore
from infrastructure.file_folder import PrivateFolder
from infrastructure.persistence.database import SQLITE
from infrastructure.persistence.files import SqlFileRecords
from infrastructure.persistence.health import SqlDatabaseHealth
from infrastructure.persistence.outbox import SqlOutbox
from infrastructure.persistence.sqlite import SqliteDatabase
from infrastructure.persistence.statistics import SqlJobStatistics
from infrastructure.persistence.workers import SqlWorkerRegister
from tests.api.world import SPEECH, TEXT, World, in_process
from tests.contract.conftest import postgres_schema
from tests.databases import EPOCH_MS, Kept, kept, postgres_jobs, sqlite_jobs, with_test_clock
from tests.fakes.files import InMemoryFileRecords
from tests.fakes.jobs import InMemoryJobRepository
from tests.fakes.webhooks import FakeReceiver

BODY = {"owner_service": "telephony", "task_type": "llm_chat", "model_profile": TEXT, "input": {"user": "hi"}}
KEY = b"0123456789abcdef"
# For what is refused before any keeper is asked.
IN_MEMORY = pytest.mark.parametrize("where", ["memory"], indirect=True)
Advance = Callable[[int], Awaitable[None]]


@dataclass
class Office:
    """Jobs behind HTTP: a client, what is behind it, and the time that the keeper of jobs goes by."""

    client: httpx2.AsyncClient
    services: JobServices
    world: World
    receiver: FakeReceiver
    kept: Kept
    advance: Advance

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """POST to a path of the job API; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            return await self.client.post(f"/api/v1{path}", headers=named)
        return await self.client.post(f"/api/v1{path}", json=body, headers=named)

    async def get(self, path: str, **parameters: Any) -> httpx2.Response:
        """GET a path of the job API."""
        return await self.client.get(f"/api/v1{path}", params=parameters)

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """A new job."""
        response = await self.post("/jobs", BODY | fields)
        assert response.status_code == 201, response.text
        return response.json()  # type: ignore[no-any-return]

    async def claim(self, **fields: Any) -> list[dict[str, Any]]:
        """What a worker gets."""
        response = await self.post("/jobs/claim", {"worker_id": "w-1"} | fields)
        assert response.status_code == 200, response.text
        return response.json()["jobs"]  # type: ignore[no-any-return]

    async def claimed(self, **fields: Any) -> tuple[str, str]:
        """A new job that is running: its id, its token."""
        await self.submit(**fields)
        [job] = await self.claim(limit=1)
        return job["id"], job["lease_token"]

    async def sweep(self, chore: Chore) -> int:
        """Do a chore."""
        return await self.services.jobs.sweep(chore)


def job_services(kept: Kept, clock: Clock, receiver: FakeReceiver, folder: Path) -> JobServices:
    outbox = SqlOutbox(kept.database)
    webhooks = Webhooks(kept.jobs, outbox, receiver, WebhookSecrets({"telephony": [KEY]}), clock)
    files = StoredFiles(SqlFileRecords(kept.database), PrivateFolder(folder))
    return JobServices(
        queue=JobQueue(kept.jobs, webhooks, files),
        desk=ClaimDesk(kept.jobs, kept.bell, Attendance(SqlWorkerRegister(kept.database), clock)),
        jobs=kept.jobs,
        files=files,
        history=kept.history,
        rules=kept.rules,
        workers=SqlWorkerRegister(kept.database),
        outbox=outbox,
        statistics=SqlJobStatistics(kept.database),
        health=SqlDatabaseHealth(kept.database),
        clock=clock,
        defaults=JobDefaults({"llm_chat": TEXT, **dict.fromkeys(SPEECH_TYPES, SPEECH)}),
    )


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the tables in it, to copy."""
    folder = tmp_path_factory.mktemp("migrated")

    async def make() -> None:
        async with sqlite_jobs(folder):
            pass

    asyncio.run(make())
    return folder / "jobs.db"


@asynccontextmanager
async def opened(migrated: Path, folder: Path) -> AsyncIterator[Kept]:
    """A copy of `migrated`, open."""
    path = Path(shutil.copy(migrated, folder))
    database = SqliteDatabase(path, synchronous="off", spelling=with_test_clock(SQLITE))
    try:
        yield kept(database)
    finally:
        await database.close()


class KeeperClock:
    """Tells the time that the keeper of jobs begins with, and measures with the loop's."""

    def monotonic(self) -> float:
        """The loop's own time."""
        return asyncio.get_running_loop().time()

    def now(self) -> float:
        """As the keeper's clock stands when a test begins."""
        return EPOCH_MS / 1000


DATABASES = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


@pytest.fixture
async def sqlite_kept(migrated: Path, tmp_path: Path) -> AsyncIterator[Kept]:
    async with opened(migrated, tmp_path) as kept:
        yield kept


@pytest.fixture
async def postgres_kept(postgres_schema: str) -> AsyncIterator[Kept]:
    async with postgres_jobs(postgres_schema, fresh=False) as kept:
        await kept.empty()
        yield kept


@pytest.fixture(params=["memory", *DATABASES])
def where(request: pytest.FixtureRequest) -> tuple[str, Kept]:
    """Memory, whose deliveries and statistics are in a file, and each of the databases."""
    name = "sqlite" if request.param == "memory" else request.param
    return request.param, request.getfixturevalue(f"{name}_kept")


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Kept:
    """Each of the databases."""
    found: Kept = request.getfixturevalue(f"{request.param}_kept")
    return found


@pytest.fixture
async def office(where: tuple[str, Kept], world: World, tmp_path: Path) -> AsyncIterator[Office]:
    """Jobs in memory, and in each of the databases."""
    name, kept = where
    receiver = FakeReceiver()
    services = job_services(kept, KeeperClock(), receiver, tmp_path / "files")
    advance: Advance = kept.advance
    if name == "memory":
        services, advance = in_memory(services, tmp_path / "files")
    async with in_process(world.app(jobs=services)) as client:
        yield Office(client, services, world, receiver, kept, advance)


def in_memory(services: JobServices, folder: Path) -> tuple[JobServices, Advance]:
    """The same with jobs in memory; workers, deliveries and statistics stay in the file."""
    now = [EPOCH_MS]
    jobs = InMemoryJobRepository(lambda: now[0])

    async def advance(ms: int) -> None:
        now[0] += ms

    files = StoredFiles(InMemoryFileRecords(jobs), PrivateFolder(folder))
    queue = JobQueue(jobs, services.queue._callbacks, files)
    desk = ClaimDesk(jobs, jobs.bell)
    return replace(services, queue=queue, desk=desk, jobs=jobs, files=files, history=jobs, rules=jobs), advance


@pytest.fixture
async def kept_office(database: Kept, world: World, tmp_path: Path) -> AsyncIterator[Office]:
    """Only in the databases: for what is kept beside jobs, and for faults."""
    receiver = FakeReceiver()
    services = job_services(database, KeeperClock(), receiver, tmp_path / "files")
    async with in_process(world.app(jobs=services)) as client:
        yield Office(client, services, world, receiver, database, database.advance)


__all__ = ["postgres_schema"]
