"""Databases for tests: SQLite in a file, PostgreSQL in a schema of its own, both with a clock that tests may set."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, text

from infrastructure.persistence.database import POSTGRES, SQLITE, Database, Spelling
from infrastructure.persistence.jobs import SqlJobRepository
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from infrastructure.persistence.rules import SqlJobRules
from infrastructure.persistence.schema import in_own_schema, migrate
from infrastructure.persistence.searching import SqlJobHistory
from infrastructure.persistence.sqlite import SqliteDatabase
from infrastructure.persistence.tables import metadata
from infrastructure.persistence.wake_up import LocalWakeUp

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"
EPOCH_MS = 1_800_000_000_000
# The clock is a row, so the statements themselves read it, as they read the database's own clock in earnest.
_CLOCK = "(SELECT at FROM test_clock)"


@dataclass(frozen=True, slots=True)
class Kept:
    """A database with jobs in it, everything that keeps them, and its clock."""

    database: Database
    bell: LocalWakeUp
    jobs: SqlJobRepository
    history: SqlJobHistory
    rules: SqlJobRules

    async def run(self, statement: str, **values: object) -> None:
        """Execute a statement in a transaction."""
        await self.database.write(lambda c: c.execute(text(statement), values) and None)

    async def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return await self.database.read(lambda c: [tuple(row) for row in c.execute(text(query), values)])

    async def advance(self, ms: int) -> None:
        """Let the database's time pass; it may go back too."""
        await self.run("UPDATE test_clock SET at=at+:ms", ms=ms)

    async def empty(self) -> None:
        """No rows, and the clock at its start."""

        def clear(connection: Connection) -> None:
            # Not TRUNCATE: on PostgreSQL that makes new files and waits for the disk.
            for table in reversed(metadata.sorted_tables):
                connection.execute(delete(table))
            connection.execute(text("UPDATE test_clock SET at=:at"), {"at": EPOCH_MS})

        await self.database.write(clear)


def kept(database: Database) -> Kept:
    """Everything that keeps jobs in `database`; nothing is remembered between claims."""
    bell = LocalWakeUp()
    jobs = SqlJobRepository(database, bell, fresh_seconds=0.0)
    return Kept(database, bell, jobs, SqlJobHistory(database, jobs), SqlJobRules(database))


def with_test_clock(spelling: Spelling) -> Spelling:
    """The same dialect, its time in a row."""
    return replace(spelling, now_ms=_CLOCK)


async def prepare(database: Database) -> None:
    """Bring it to the schema, give it the clock."""
    await migrate(database)
    await database.write(lambda c: c.execute(text("CREATE TABLE test_clock (at BIGINT NOT NULL)")) and None)
    await database.write(lambda c: c.execute(text(f"INSERT INTO test_clock VALUES ({EPOCH_MS})")) and None)


@asynccontextmanager
async def sqlite_jobs(folder: Path, *, synchronous: str = "off") -> AsyncIterator[Kept]:
    """Jobs in a file in `folder`; not synchronous, because no test here pulls a plug."""
    database = SqliteDatabase(folder / "jobs.db", synchronous=synchronous, spelling=with_test_clock(SQLITE))
    try:
        await prepare(database)
        yield kept(database)
    finally:
        await database.close()


@asynccontextmanager
async def postgres_jobs(schema: str, *, pool_size: int = 8, fresh: bool = True) -> AsyncIterator[Kept]:
    """Jobs in that schema; `fresh` makes the tables."""
    database = PostgresDatabase(
        POSTGRES_URL, Bounds(pool_size=pool_size, schema=schema), spelling=with_test_clock(POSTGRES)
    )
    try:
        if fresh:
            await prepare(database)
        yield kept(database)
    finally:
        await database.close()


__all__ = ["EPOCH_MS", "POSTGRES_URL", "Kept", "in_own_schema", "postgres_jobs", "sqlite_jobs"]
