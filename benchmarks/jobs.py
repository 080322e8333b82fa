"""How many jobs a second are claimed and completed, on SQLite and on PostgreSQL, with the settings of a real server.

    python -m benchmarks.jobs [--jobs 10000] [--claimers 50] [--postgres URL] [--json] [--check]

Everything that belongs to a job is written: its row, its events, its attempts. Claimers and database share the machine.
Each takes 1 to 4 jobs at a time and completes them at once, each by a call of its own. SQLite lies in a temporary
folder; PostgreSQL is left out unless its URL is given, and gets a schema that is dropped at the end.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.distribution import percentile
from benchmarks.table import table
from domain.job_repository import Claim, Complete, Settlement
from domain.new_job import NewBatch, NewJob
from infrastructure.persistence.database import Database
from infrastructure.persistence.jobs import SqlJobRepository
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from infrastructure.persistence.schema import in_own_schema, migrate
from infrastructure.persistence.sqlite import SqliteDatabase
from infrastructure.persistence.wake_up import LocalWakeUp
from ingle import environment

OWNER, TASK, PROFILE = "benchmark", "no_op", "none"
BARS = {"SQLite": (3000.0, 60.0), "PostgreSQL": (1800.0, 120.0)}
BATCH = 5000


@dataclass(frozen=True, slots=True)
class Row:
    """One database: jobs a second, times of a claim, and how many jobs somebody got twice."""

    database: str
    jobs: int
    claimers: int
    per_second: float
    claim_p50_ms: float
    claim_p99_ms: float
    settle_p99_ms: float
    duplicates: int

    @property
    def passes(self) -> bool:
        """Whether the bar holds."""
        rate, claim = BARS[self.database]
        return self.per_second >= rate and self.claim_p99_ms <= claim and not self.duplicates


@dataclass(slots=True)
class _Figures:
    """What claimers saw: times of calls in seconds, jobs they got."""

    claims: list[float] = field(default_factory=list)
    settles: list[float] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)


async def measure(name: str, database: Database, jobs: int, claimers: int) -> Row:
    """Empty a short line first, which opens connections and prepares statements, then a long one."""
    repository = SqlJobRepository(database, LocalWakeUp())
    await _empty(repository, claimers * 10, claimers)
    seconds, figures = await _empty(repository, jobs, claimers)
    claims, settles, taken = sorted(figures.claims), sorted(figures.settles), figures.taken
    return Row(
        name,
        jobs,
        claimers,
        len(taken) / seconds,
        1000 * percentile(claims, 50),
        1000 * percentile(claims, 99),
        1000 * percentile(settles, 99),
        len(taken) - len(set(taken)),
    )


async def _empty(repository: SqlJobRepository, jobs: int, claimers: int) -> tuple[float, _Figures]:
    """Fill the line, then let everybody take from it until it is empty: (seconds that took, what was seen)."""
    for start in range(0, jobs, BATCH):
        count = min(BATCH, jobs - start)
        await repository.add([_job() for _ in range(count)], NewBatch(str(uuid.uuid4()), OWNER))
    figures = _Figures()

    async def complete(job_id: str, token: str | None) -> None:
        asked = time.perf_counter()
        await repository.settle(Settlement(job_id, Complete(None, "0" * 64), token))
        figures.settles.append(time.perf_counter() - asked)

    async def work(worker: str) -> None:
        while True:
            asked = time.perf_counter()
            found = await repository.claim(Claim(worker, random.randint(1, 4), [TASK], [PROFILE]))
            figures.claims.append(time.perf_counter() - asked)
            if not found:
                return
            figures.taken.extend(job.id for job in found)
            await asyncio.gather(*(complete(job.id, job.lease_token) for job in found))

    began = time.perf_counter()
    await asyncio.gather(*(work(f"worker-{number}") for number in range(claimers)))
    return time.perf_counter() - began, figures


def _job() -> NewJob:
    return NewJob(str(uuid.uuid4()), OWNER, TASK, PROFILE, {})


async def on_sqlite(jobs: int, claimers: int) -> Row:
    """With WAL and synchronous=FULL."""
    with tempfile.TemporaryDirectory() as folder:
        database = SqliteDatabase(Path(folder) / "jobs.db")
        try:
            await migrate(database)
            return await measure("SQLite", database, jobs, claimers)
        finally:
            await database.close()


async def on_postgres(url: str, jobs: int, claimers: int) -> Row:
    """With the server's own settings."""
    async with in_own_schema(url) as schema:
        database = PostgresDatabase(url, Bounds(schema=schema))
        try:
            await migrate(database)
            return await measure("PostgreSQL", database, jobs, claimers)
        finally:
            await database.close()


def render(rows: Sequence[Row]) -> str:
    """The table, with the bars under each figure."""
    cells = []
    for row in rows:
        rate, claim = BARS[row.database]
        cells.append(
            [
                row.database,
                f"{row.per_second:,.0f}",
                f"{row.claim_p50_ms:.1f}",
                f"{row.claim_p99_ms:.1f}",
                f"{row.settle_p99_ms:.1f}",
                str(row.duplicates),
                f"≥ {rate:,.0f}/s, p99 ≤ {claim:.0f} ms: {'holds' if row.passes else 'missed'}",
            ]
        )
    first = rows[0]
    headings = ["Database", "Jobs/s", "Claim p50 ms", "Claim p99 ms", "Complete p99 ms", "Twice", "Bar"]
    return f"{first.jobs:,} jobs, {first.claimers} claimers of 1 to 4 jobs\n\n{table(headings, cells)}"


async def run(options: argparse.Namespace) -> list[Row]:
    """Each database in turn."""
    rows = [await on_sqlite(options.jobs, options.claimers)]
    if options.postgres:
        rows.append(await on_postgres(options.postgres, options.jobs, options.claimers))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a bar is missed and `--check` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs on each database (default 10000)")
    parser.add_argument("--claimers", type=int, default=50, help="workers that take them (default 50)")
    parser.add_argument("--postgres", metavar="URL", help="measure this PostgreSQL too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args(arguments)
    environment.settle()
    rows = asyncio.run(run(options))
    print(
        json.dumps([{**asdict(row), "holds": row.passes} for row in rows], indent=2) if options.json else render(rows)
    )
    return 1 if options.check and not all(row.passes for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
