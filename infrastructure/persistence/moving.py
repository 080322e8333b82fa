"""Transitions that a holder has no part in: what owners ask for and what time brings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Text,
    TextualSelect,
    bindparam,
    delete,
    select,
    text,
    update,
)

from domain.errors import DedupeConflict, IngleError, JobNotFound
from domain.job import EventKind, Job, JobStatus
from domain.job_moves import EXPIRED, Move, after_lease, on_cancel, on_delete, on_retry
from domain.job_repository import Cancel, Changed, Delete, Prune, Retry
from domain.new_job import DAY_MS
from infrastructure.persistence.adding import OPEN
from infrastructure.persistence.database import Spelling
from infrastructure.persistence.history import Happened, record
from infrastructure.persistence.places import NewPlaces, remember_places
from infrastructure.persistence.rows import COLUMNS, JOB_COLUMNS, JOB_TYPES, as_json, job_of
from infrastructure.persistence.settling import Policies, jitter, rows_by_id
from infrastructure.persistence.tables import batches, file_uses, files, jobs, webhook_deliveries, workers

STEP = 500
SWEEPER, PRUNER = "sweeper", "pruner"
_JOB = [jobs.c[name] for name in COLUMNS]

_MOVE = """
UPDATE jobs SET status=:status, ready=:ready, available_at=:available_at, expires_at=:expires_at,
  failure_count=:failure_count, snooze_count=:snooze_count, max_attempts=:max_attempts, fair_tag=:fair_tag,
  error_code=:error_code, error_message=:error_message, finished_at=:finished_at, progress=:progress,
  cancel_requested_at=:cancel_requested_at, cancel_reason=:cancel_reason,
  lease_token=NULL, lease_expires_at=NULL, dispatched_at=NULL
WHERE seq=:seq
"""
_ASK = "UPDATE jobs SET cancel_requested_at=:now, cancel_reason=:message WHERE seq=:seq"
_PROMOTE = """
UPDATE jobs SET ready=1 WHERE seq IN (SELECT seq FROM jobs
  WHERE status='pending' AND ready=0 AND available_at <= now_ms() ORDER BY available_at LIMIT :step SKIP_LOCKED)
RETURNING model_profile
"""
_EXPIRED = """
SELECT {columns} FROM jobs WHERE status='pending' AND expires_at IS NOT NULL AND expires_at <= now_ms()
ORDER BY expires_at LIMIT :step SKIP_LOCKED
"""
_LAPSED = """
SELECT {columns} FROM jobs WHERE status='running' AND lease_expires_at < now_ms()
ORDER BY lease_expires_at LIMIT :step SKIP_LOCKED
"""
_ORPHANED = """
SELECT {columns} FROM jobs WHERE status='running' AND locked_by IN :dead ORDER BY seq LIMIT :step SKIP_LOCKED
"""
_OVER = """
SELECT {columns} FROM jobs WHERE status=:status AND finished_at <= now_ms() - :keep_ms
  AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.job_seq=jobs.seq AND d.status='queued')
ORDER BY finished_at LIMIT :step SKIP_LOCKED
"""
_BLANK = """
UPDATE jobs SET input='{}', result=NULL, payload_purged_at=now_ms() WHERE seq IN (SELECT seq FROM jobs
  WHERE status=:status AND finished_at <= now_ms() - :keep_ms AND payload_purged_at IS NULL
  ORDER BY finished_at LIMIT :step SKIP_LOCKED)
"""


@dataclass(frozen=True, slots=True)
class _Decided:
    """A move of a job, and what an owner's retry changes beside it."""

    job: Job
    move: Move
    actor: str
    max_attempts: int | None = None


class Moving:
    """The operations of `JobRepository.change` and `sweep`; each is one bounded transaction."""

    def __init__(self, spelling: Spelling) -> None:
        self._sql = spelling.sql
        self._now = spelling.sql("SELECT now_ms()")
        self._move, self._ask, self._promote = spelling.sql(_MOVE), spelling.sql(_ASK), spelling.sql(_PROMOTE)
        self._expired, self._lapsed = self._rows(_EXPIRED), self._rows(_LAPSED)
        self._orphaned = self._rows(_ORPHANED, bindparam("dead", type_=Text, expanding=True))
        self._over, self._blank = self._rows(_OVER), spelling.sql(_BLANK)

    def _rows(self, statement: str, *binds: BindParameter[Any]) -> TextualSelect:
        return self._sql(statement.replace("{columns}", JOB_COLUMNS)).bindparams(*binds).columns(*JOB_TYPES)

    # -- what owners ask for --------------------------------------------------------------------------

    def change(
        self,
        connection: Connection,
        action: Cancel | Retry | Delete,
        job_ids: Sequence[str],
        owners: Collection[str] | None,
    ) -> list[Changed | IngleError]:
        """One answer for each job."""
        there = rows_by_id(connection, job_ids, owners, lock=True)
        now = self._time(connection)
        answers: dict[str, Changed | IngleError] = {}
        decided: list[_Decided] = []
        gone: list[Job] = []
        for job_id in dict.fromkeys(job_ids):
            job = there.get(job_id)
            if job is None:
                answers[job_id] = JobNotFound()
                continue
            try:
                if isinstance(action, Delete):
                    on_delete(job)
                    gone.append(job)
                elif one := _wish(connection, job, action, now, decided):
                    decided.append(one)
                answers[job_id] = Changed(job, changed=False)
            except IngleError as refusal:
                answers[job_id] = refusal
        self._write(connection, decided, now)
        if isinstance(action, Delete):
            _remove(connection, gone, action.actor, now)
            after = {job.id: job for job in gone}
        else:
            after = rows_by_id(connection, [one.job.id for one in decided]) if decided else {}
        answers |= {job_id: Changed(job, changed=True) for job_id, job in after.items()}
        return [answers[job_id] for job_id in job_ids]

    # -- what time brings -----------------------------------------------------------------------------

    def promote(self, connection: Connection) -> list[str]:
        """Make due jobs ready; the profile of each."""
        return list(connection.execute(self._promote, {"step": STEP}).scalars().all())

    def expire(self, connection: Connection) -> list[Job]:
        """Fail pending jobs whose time is over."""
        found = [job_of(row) for row in connection.execute(self._expired, {"step": STEP})]
        self._write(connection, [_Decided(job, EXPIRED, SWEEPER) for job in found], self._time(connection))
        return found

    def reap(self, connection: Connection, dead: Collection[str]) -> list[Job]:
        """Take jobs from holders whose lease ran out, or who are `dead`."""
        if dead:
            rows = connection.execute(self._orphaned, {"dead": sorted(dead), "step": STEP}).all()
        else:
            rows = connection.execute(self._lapsed, {"step": STEP}).all()
        found = [job_of(row) for row in rows]
        if found:
            now, policies = self._time(connection), Policies(connection, found)
            moves = [(job, after_lease(job, now, policies.of(job), jitter=jitter())) for job in found]
            self._write(connection, [_Decided(job, move, SWEEPER) for job, move in moves], now)
        return found

    def prune(self, connection: Connection, status: JobStatus, keep_ms: int) -> int:
        """Remove jobs that ended long ago; their places in line are remembered by the queue's floor."""
        values = {"status": str(status), "keep_ms": keep_ms, "step": STEP}
        found = [job_of(row) for row in connection.execute(self._over, values)]
        _remove(connection, found, PRUNER, self._time(connection))
        return len(found)

    def blank(self, connection: Connection, status: JobStatus, keep_ms: int) -> int:
        """Forget input and result of jobs that ended long ago; their rows stay."""
        values = {"status": str(status), "keep_ms": keep_ms, "step": STEP}
        return connection.execute(self._blank, values).rowcount

    def prune_beside(self, connection: Connection, chore: Prune) -> int:
        """Forget the keys of batches, as long as failed jobs are kept, and workers that were not seen for a day."""
        now = self._time(connection)
        connection.execute(delete(workers).where(workers.c.last_seen_at <= now - DAY_MS))
        return connection.execute(delete(batches).where(batches.c.created_at <= now - chore.failed_ms)).rowcount

    # -- one transition -------------------------------------------------------------------------------

    def _time(self, connection: Connection) -> int:
        return int(connection.execute(self._now).scalar_one())

    def _write(self, connection: Connection, decided: Sequence[_Decided], now: int) -> None:
        """Write moves of rows that are locked, and what goes with them."""
        asked = [one for one in decided if one.move.kind is EventKind.CANCEL_REQUESTED]
        moved = [one for one in decided if one.move.kind is not EventKind.CANCEL_REQUESTED]
        if asked:
            values = [{"seq": one.job.seq, "now": now, "message": one.move.message} for one in asked]
            connection.execute(self._ask, values)
        if moved:
            remember_places(connection, [one.job for one in moved if one.move.afresh])
            places = NewPlaces(connection)
            connection.execute(self._move, [_values(places, one, now) for one in moved])
        record(connection, [_happened(one, now) for one in decided])


def _wish(
    connection: Connection, job: Job, action: Cancel | Retry, now: int, decided: Sequence[_Decided]
) -> _Decided | None:
    """What an owner's wish leads to; None where nothing changes."""
    if isinstance(action, Cancel):
        move = on_cancel(job, action.reason)
        return None if move is None else _Decided(job, move, action.actor)
    move = on_retry(job, now, action.delay_ms, force=action.force)
    if move is None:
        return None
    if job.dedupe_key is not None and job.status.terminal:
        _refuse_twin(connection, job, [one.job for one in decided])
    return _Decided(job, move, action.actor, action.max_attempts)


def _refuse_twin(connection: Connection, job: Job, coming: Sequence[Job]) -> None:
    """Raise DedupeConflict where another job with this key is active, or will be by this very change."""
    key = (job.owner_service, job.dedupe_key)
    twin = next((other.id for other in coming if (other.owner_service, other.dedupe_key) == key), None)
    if twin is None:
        twin = connection.execute(
            select(jobs.c.id).where(
                jobs.c.owner_service == job.owner_service,
                jobs.c.dedupe_key == job.dedupe_key,
                text(OPEN),
            )
        ).scalar()
    if twin is not None:
        raise DedupeConflict(active_id=twin)


def _values(places: NewPlaces, one: _Decided, now: int) -> dict[str, Any]:
    """The columns after a move of a row that is locked."""
    job, move, pending = one.job, one.move, one.move.to is JobStatus.PENDING
    values: dict[str, Any] = {
        "seq": job.seq,
        "status": str(move.to),
        "ready": int(move.ready if pending else job.ready),
        "available_at": now + move.delay_ms if pending else job.available_at,
        "expires_at": job.expires_at,
        "failure_count": job.failure_count + move.counted,
        "snooze_count": job.snooze_count + move.snoozed,
        "max_attempts": one.max_attempts or job.max_attempts,
        "fair_tag": job.fair_tag,
        "error_code": move.code,
        "error_message": move.message,
        "finished_at": None if pending else now,
        "progress": as_json(job.progress),
        "cancel_requested_at": job.cancel_requested_at,
        "cancel_reason": job.cancel_reason,
    }
    if move.afresh:
        cleared = ("expires_at", "error_code", "error_message", "progress", "cancel_requested_at", "cancel_reason")
        values |= dict.fromkeys(cleared) | {"failure_count": 0, "snooze_count": 0}
        values["fair_tag"] = places.next(job)
    return values


def _happened(one: _Decided, now: int) -> Happened:
    move = one.move
    return Happened(
        one.job,
        move.kind,
        one.actor,
        one.job.status,
        now,
        move.to,
        move.code,
        move.message,
        move.outcome,
        deliver=move.to.terminal,
    )


def _remove(connection: Connection, gone: Sequence[Job], actor: str, now: int) -> None:
    """Remove the rows of ended jobs, with their deliveries; a manual delete keeps the line as the pruner does."""
    if not gone:
        return
    record(connection, [Happened(job, EventKind.DELETED, actor, job.status, now, None) for job in gone])
    seqs = [job.seq for job in gone]
    remember_places(connection, gone)
    # An address that answered 410 is refused until it takes a delivery, however long its job has been gone.
    row = webhook_deliveries.c
    told_gone = (row.status == "gone") & row.body.is_not(None)
    connection.execute(delete(webhook_deliveries).where(row.job_seq.in_(seqs), ~told_gone))
    used = select(file_uses.c.file_id).where(file_uses.c.job_id.in_([job.id for job in gone]))
    connection.execute(update(files).where(files.c.id.in_(used)).values(expires_at=now))
    connection.execute(delete(jobs).where(jobs.c.seq.in_(seqs)))
