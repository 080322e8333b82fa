"""Who works here, and what a broker should be told about."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, Text, bindparam, delete

from application.job_ports import Call, WorkerRecord
from infrastructure.persistence.database import Database
from infrastructure.persistence.tables import workers

_SEEN = """
INSERT INTO workers (worker_id, name, kind, host, pid, profiles, started_at, last_seen_at)
VALUES (:worker_id, :name, :kind, :host, :pid, :profiles, now_ms(), now_ms())
ON CONFLICT (worker_id) DO UPDATE SET profiles=:profiles, last_seen_at=now_ms()
"""
_WORKERS = """
SELECT workers.*, (SELECT count(*) FROM jobs WHERE status='running' AND locked_by=workers.worker_id) AS running,
  GREATEST(last_seen_at, COALESCE((SELECT MAX(heartbeat_at) FROM jobs
    WHERE status='running' AND locked_by=workers.worker_id), 0)) AS last_sign_at, now_ms() AS now
FROM workers WHERE last_seen_at > now_ms() - 86400000 ORDER BY last_seen_at DESC, worker_id
"""
# Two statements, because the databases disagree on where an index has its nulls.
_TELL = """
UPDATE jobs SET dispatched_at=now_ms() WHERE seq IN (SELECT seq FROM jobs
  WHERE status='pending' AND ready=1 AND {when} AND task_type IN :tasks AND NOT EXISTS (SELECT 1 FROM queues
      WHERE queues.model_profile=jobs.model_profile AND (paused=1 OR held_until > now_ms()))
  ORDER BY dispatched_at, seq LIMIT :n SKIP_LOCKED)
RETURNING id, task_type, attempt, seq
"""
_NEVER_TOLD = _TELL.format(when="dispatched_at IS NULL")
_TOLD_LONG_AGO = _TELL.format(when="dispatched_at <= now_ms() - 30000")
_UNTOLD = "UPDATE jobs SET dispatched_at=NULL WHERE id IN :ids AND status='pending'"


class SqlWorkerRegister:
    """WorkerRegister in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen, self._all = database.spelling.sql(_SEEN), database.spelling.sql(_WORKERS)

    async def seen(self, worker: WorkerRecord) -> None:
        """Note that it lives."""
        values = {
            "worker_id": worker.worker_id,
            "name": worker.name,
            "kind": worker.kind,
            "host": worker.host,
            "pid": worker.pid,
            "profiles": json.dumps(worker.profiles),
        }
        await self._database.write(lambda c: c.execute(self._seen, values) and None, repeatable=True)

    async def workers(self) -> Sequence[WorkerRecord]:
        """All that were seen within the last day, newest first."""
        rows = await self._database.read(lambda c: c.execute(self._all).all())
        return [
            WorkerRecord(
                row.worker_id,
                row.name,
                row.kind,
                row.host,
                row.pid,
                tuple(json.loads(row.profiles)),
                row.started_at,
                row.last_sign_at,
                row.running,
                max(0, row.now - row.last_sign_at),
            )
            for row in rows
        ]

    async def forget(self, worker_ids: Collection[str]) -> None:
        """These have ended."""
        query = delete(workers).where(workers.c.worker_id.in_(list(worker_ids)))
        await self._database.write(lambda c: c.execute(query) and None, repeatable=True)


class SqlDispatchable:
    """Dispatchable in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        sql = database.spelling.sql
        tasks: BindParameter[Any] = bindparam("tasks", type_=Text, expanding=True)
        self._never, self._again = (sql(text).bindparams(tasks) for text in (_NEVER_TOLD, _TOLD_LONG_AGO))
        self._untold = sql(_UNTOLD).bindparams(bindparam("ids", type_=Text, expanding=True))

    async def undispatched(self, limit: int, task_types: Collection[str]) -> Sequence[Call]:
        """Ready jobs that no broker was told of lately, oldest first."""
        if not task_types:
            return []
        return await self._database.write(lambda connection: self._take(connection, limit, sorted(task_types)))

    def _take(self, connection: Connection, limit: int, tasks: Sequence[str]) -> list[Call]:
        rows: list[Row[Any]] = []
        for statement in (self._never, self._again):
            if len(rows) < limit:
                found = connection.execute(statement, {"n": limit - len(rows), "tasks": tasks}).all()
                rows += sorted(found, key=lambda row: row.seq)
        return [Call(row.id, row.task_type, row.attempt) for row in rows]

    async def untold(self, job_ids: Collection[str]) -> None:
        """These could not be told after all."""
        ids = sorted(job_ids)
        await self._database.write(lambda c: c.execute(self._untold, {"ids": ids}) and None, repeatable=True)
