"""With 100,000 jobs of 100 owners every statement uses its index and sorts nothing; deferred jobs slow no claim."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from statistics import median
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from domain.job import JobStatus
from domain.job_repository import Claim, JobFilter, Promote
from domain.new_job import NewBatch
from infrastructure.persistence.adding import Adding
from infrastructure.persistence.claiming import Claiming
from infrastructure.persistence.moving import Moving
from infrastructure.persistence.rules import SqlJobRules
from infrastructure.persistence.searching import search_query
from infrastructure.persistence.workers import SqlDispatchable
from tests.contract.conftest import Keeper, new_job
from tests.databases import EPOCH_MS, Kept

ROWS = 100_000
_COLUMNS = """INSERT INTO jobs (id, owner_service, task_type, model_profile, priority, status, ready, available_at,
  expires_at, fair_tag, input, input_bytes, max_attempts, timeout_ms, attempt, lease_ms, lease_token, lease_expires_at,
  attempt_started_at, created_at, finished_at)"""
# Of ten rows: six ended, two deferred, one ready, one running.
_VALUES = f"""SELECT 'job-' || i, 'owner-' || (i % 100), 'task-' || (i % 3), 'profile-' || (i % 5), i % 7 - 3,
  CASE WHEN i % 10 < 4 THEN 'completed' WHEN i % 10 < 6 THEN 'failed' WHEN i % 10 < 9 THEN 'pending' ELSE 'running' END,
  CASE WHEN i % 10 IN (6, 7) THEN 0 ELSE 1 END, {EPOCH_MS} + i % 1000 + 1, CASE WHEN i % 50 = 8 THEN {EPOCH_MS} + i END,
  i / 100, '{{}}', 2, 3, 600000, CASE WHEN i % 10 IN (6, 7, 8) THEN 0 ELSE 1 END, 60000,
  CASE WHEN i % 10 = 9 THEN 'token' || i END, CASE WHEN i % 10 = 9 THEN {EPOCH_MS} + i END, {EPOCH_MS}, {EPOCH_MS},
  CASE WHEN i % 10 < 6 THEN {EPOCH_MS} - i END"""


class _Undo(Exception):
    pass


async def fill(kept: Kept, postgres: bool) -> None:
    if postgres:
        await kept.run(f"{_COLUMNS} {_VALUES} FROM generate_series(1, {ROWS}) AS i")
        await kept.run("ANALYZE jobs")
    else:
        counted = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {ROWS})"
        await kept.run(f"{_COLUMNS} {counted} {_VALUES} FROM n")


async def plans(kept: Kept, operation: Callable[[Connection], Any]) -> list[str]:
    """The plans of everything that `operation` asks of the jobs; what it did is undone."""
    found: list[str] = []

    def explain(connection: Connection) -> None:
        asked: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            if "jobs" in statement and not many and not statement.startswith("INSERT"):
                asked.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", note)
        operation(connection)
        event.remove(connection, "before_cursor_execute", note)
        prefix = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        for statement, parameters in asked:
            rows = connection.exec_driver_sql(prefix + statement, parameters)
            found.append(f"{statement}\n" + "\n".join(str(row[-1]) for row in rows))
        raise _Undo

    with pytest.raises(_Undo):
        await kept.database.write(explain)
    return found


def check(found: Sequence[str], *indexes: str) -> None:
    together = "\n".join(found)
    for index in indexes:
        assert index in together, together
    for sign in ("SCAN jobs\n", "TEMP B-TREE", "Seq Scan on jobs", "Sort  ("):
        assert sign not in f"{together}\n", together


@pytest.fixture
async def full(database_keeper: Keeper) -> AsyncIterator[Kept]:
    kept, postgres = database_keeper.kept, database_keeper.name == "postgres"
    assert kept is not None
    await fill(kept, postgres)
    yield kept
    if postgres:
        await kept.run("TRUNCATE jobs CASCADE")


async def test_every_statement_uses_its_index(full: Kept) -> None:
    spelling = full.database.spelling
    claiming, moving = Claiming(spelling, 60_000), Moving(spelling)
    pair = ("profile-3", "task-1")
    check(await plans(full, lambda c: claiming.take(c, pair, "w", 4, None, None)), "ix_claim")
    check(await plans(full, claiming.ready_pairs), "ix_claim")
    await full.advance(2_000)
    check(await plans(full, moving.promote), "ix_due")
    check(await plans(full, moving.expire), "ix_expire")
    check(await plans(full, lambda c: moving.reap(c, ())), "ix_lease")
    check(await plans(full, lambda c: moving.prune(c, JobStatus.COMPLETED, 0)), "ix_prune")
    for wanted, index in (
        (JobFilter(owner_service=["owner-7"]), "ix_list"),
        (JobFilter(owner_service=["owner-7"], owner_ref=["x"]), "ix_ref"),
        (JobFilter(status=[JobStatus.FAILED]), "ix_failed"),
        (JobFilter(batch_id=["x"]), "ix_batch"),
    ):
        query = search_query(wanted, 50, 90_000, ())
        check(await plans(full, lambda c, q=query: c.execute(q).all()), index)  # type: ignore[misc]
    waiting = SqlJobRules(full.database)._waiting
    check(await plans(full, lambda c: waiting(c)), "ix_claim", "ix_due")
    add = Adding(spelling)
    job = new_job("owner-7", "task-1", "profile-3", idempotency_key="k", dedupe_key="d")
    check(
        await plans(full, lambda c: add.add(c, [job], None)), "ix_fair_owner", "ix_fair_served", "ux_idem", "ux_dedupe"
    )
    dispatchable = SqlDispatchable(full.database)
    check(await plans(full, lambda c: dispatchable._take(c, 200, ["task-1"])), "ix_dispatch")


async def test_deferred_jobs_do_not_slow_a_claim(full: Kept) -> None:
    async def claims() -> float:
        times = []
        for _ in range(15):
            began = time.perf_counter()
            assert len(await full.jobs.claim(Claim("w", 1, ["few"], ["few"]))) == 1
            times.append(time.perf_counter() - began)
        return median(times)

    jobs = [new_job(task="few", profile="few", priority=n % 3) for n in range(30)]
    await full.jobs.add(jobs, NewBatch("b", "telephony"))
    beside = await claims()
    await full.database.write(lambda c: c.execute(text("DELETE FROM jobs WHERE status='pending' AND ready=0")) and None)
    alone = await claims()
    assert beside <= 3 * alone + 0.005
    assert await full.jobs.sweep(Promote()) == 0
