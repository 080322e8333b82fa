"""Looking jobs up, and what happened to them."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, literal_column, select

from domain.job import Attempt, EventKind, JobEvent, JobStatus, Outcome
from domain.job_repository import JobFilter, JobRepository
from infrastructure.persistence.database import Database
from infrastructure.persistence.rows import COLUMNS
from infrastructure.persistence.tables import job_attempts, job_events, jobs

_EXACT = ("owner_service", "owner_ref", "task_type", "model_profile", "error_code", "batch_id", "idempotency_key")
_INSTEAD: dict[str, ColumnElement[Any]] = {
    "input": literal_column("'{}'").label("input"),
    "result": literal_column("NULL").label("result"),
}


def search_query(wanted: JobFilter, limit: int, before: int | None, payloads: Collection[str]) -> Select[Any]:
    """Newest first, one row more than `limit` so that the last page is known."""
    query = select(*(_INSTEAD[name] if name in _INSTEAD and name not in payloads else jobs.c[name] for name in COLUMNS))
    for name in _EXACT:
        if values := getattr(wanted, name):
            query = query.where(_one_of(jobs.c[name], values))
    if wanted.status:
        # Written into the statement, so that the partial indexes are seen to fit.
        query = query.where(_one_of(jobs.c.status, [literal_column(f"'{JobStatus(one)}'") for one in wanted.status]))
    if wanted.owners is not None:
        query = query.where(_one_of(jobs.c.owner_service, wanted.owners))
    if wanted.created_after is not None:
        query = query.where(jobs.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(jobs.c.created_at < wanted.created_before)
    if before is not None:
        query = query.where(jobs.c.seq < before)
    return query.order_by(jobs.c.seq.desc()).limit(limit + 1)


def _one_of(column: Any, values: Collection[Any]) -> Any:
    """Equal to the one value, so that an index ordered by seq serves; else one of several."""
    chosen = list(values)
    return column == chosen[0] if len(chosen) == 1 else column.in_(chosen)


class SqlJobHistory:
    """JobHistory in a database."""

    def __init__(self, database: Database, repository: JobRepository) -> None:
        self._database, self._repository = database, repository

    async def attempts(self, job_id: str, owners: Collection[str] | None = None) -> Sequence[Attempt]:
        """Ended attempts, in order."""
        job = await self._repository.get(job_id, owners)
        query = select(job_attempts).where(job_attempts.c.job_seq == job.seq).order_by(job_attempts.c.attempt)
        return [_attempt(row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def events(self, job_id: str, after: int = 0, owners: Collection[str] | None = None) -> Sequence[JobEvent]:
        """Events after a sequence number, in order."""
        job = await self._repository.get(job_id, owners)
        query = (
            select(job_events)
            .where(job_events.c.job_seq == job.seq, job_events.c.seq > after)
            .order_by(job_events.c.seq)
        )
        return [_event(row) for row in await self._database.read(lambda c: c.execute(query).all())]


def _attempt(row: Row[Any]) -> Attempt:
    return Attempt(
        row.attempt,
        row.worker_id,
        row.started_at,
        row.ended_at,
        Outcome(row.outcome),
        row.error_code,
        row.error_message,
        None if row.usage is None else json.loads(row.usage),
    )


def _event(row: Row[Any]) -> JobEvent:
    return JobEvent(
        row.seq,
        row.at,
        EventKind(row.kind),
        row.actor,
        None if row.from_status is None else JobStatus(row.from_status),
        None if row.to_status is None else JobStatus(row.to_status),
        row.attempt,
        row.error_code,
        row.note,
    )
