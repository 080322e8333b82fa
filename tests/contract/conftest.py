"""The repositories of jobs that keep one contract: in memory, in SQLite, in PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import text
from sqlalchemy.schema import CreateSchema, DropSchema

from application.job_ports import JobRules
from domain.job_repository import JobHistory, JobRepository
from domain.new_job import NewJob
from infrastructure.persistence.postgres import PostgresDatabase
from tests.databases import EPOCH_MS, POSTGRES_URL, Kept, postgres_jobs, sqlite_jobs
from tests.fakes.jobs import InMemoryJobRepository


class Advance(Protocol):
    async def __call__(self, ms: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Keeper:
    """A repository of jobs, what belongs to it, and its clock."""

    name: str
    jobs: JobRepository
    history: JobHistory
    rules: JobRules
    advance: Advance
    kept: Kept | None = None


def in_memory() -> Keeper:
    now = [EPOCH_MS]
    repository = InMemoryJobRepository(lambda: now[0])

    async def advance(ms: int) -> None:
        now[0] += ms

    return Keeper("memory", repository, repository, repository, advance)


def in_database(name: str, kept: Kept) -> Keeper:
    return Keeper(name, kept.jobs, kept.history, kept.rules, kept.advance, kept)


@pytest.fixture(scope="session")
def postgres_schema() -> Iterator[str]:
    """A schema of this session's own, with the tables in it."""
    name = f"ingle_test_{uuid.uuid4().hex}"

    async def run(statement: Any) -> None:
        database = PostgresDatabase(POSTGRES_URL)
        await database.write(lambda c: c.execute(statement) and None)
        await database.close()

    async def fill() -> None:
        await run(CreateSchema(name))
        async with postgres_jobs(name):
            pass

    asyncio.run(fill())
    yield name
    asyncio.run(run(DropSchema(name, cascade=True)))


@pytest.fixture
async def sqlite_keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    async with sqlite_jobs(tmp_path) as kept:
        yield in_database("sqlite", kept)


@pytest.fixture
async def postgres_keeper(postgres_schema: str) -> AsyncIterator[Keeper]:
    async with postgres_jobs(postgres_schema, fresh=False) as kept:
        await kept.empty()
        yield in_database("postgres", kept)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def keeper(request: pytest.FixtureRequest) -> Keeper:
    """Each of the three."""
    if request.param == "memory":
        return in_memory()
    found: Keeper = request.getfixturevalue(f"{request.param}_keeper")
    return found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_keeper(request: pytest.FixtureRequest) -> Keeper:
    """Each of the two databases."""
    found: Keeper = request.getfixturevalue(f"{request.param}_keeper")
    return found


def new_job(owner: str = "telephony", task: str = "llm_chat", profile: str = "qwen", **fields: Any) -> NewJob:
    """A job as a caller asks for it."""
    if fields.get("idempotency_key") is not None:
        fields.setdefault("request_sha256", "0" * 64)
    return NewJob(**{"id": str(uuid.uuid4()), "owner_service": owner, "task_type": task, "model_profile": profile,
                     "input": {"user": "hi"}} | fields)  # fmt: skip


__all__ = ["Keeper", "new_job", "text"]
