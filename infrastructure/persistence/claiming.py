"""Taking ready jobs: one indexed statement for each pair of model profile and task type."""

from typing import Any

from sqlalchemy import BindParameter, Connection, Row, Text, TextualSelect, bindparam, func, select, text

from domain.claim_order import Pair
from domain.job import EventKind, Job, JobStatus
from domain.job_limits import BREAKER_FAILURES
from infrastructure.persistence.database import Spelling
from infrastructure.persistence.history import Happened, record
from infrastructure.persistence.rows import JOB_COLUMNS, JOB_TYPES, job_of
from infrastructure.persistence.tables import jobs, owners, queues

_READY = """
    jobs.status='pending' AND jobs.ready=1 AND model_profile=:profile AND task_type=:task
    AND (expires_at IS NULL OR expires_at > now_ms())
"""
# Where anything is limited, counting must come first: such claims are answered by `Claiming.within_limits`.
_UNLIMITED = """
    AND NOT EXISTS (SELECT 1 FROM queues WHERE queues.model_profile=:profile AND (
        paused=1 OR held_until > now_ms() OR max_running IS NOT NULL OR breaker_failures >= :breaker))
    AND NOT EXISTS (SELECT 1 FROM owners WHERE max_running IS NOT NULL)
"""
_LIMITED = """
SELECT EXISTS (SELECT 1 FROM owners WHERE max_running IS NOT NULL) OR EXISTS (SELECT 1 FROM queues
  WHERE model_profile=:profile AND paused=0 AND (max_running IS NOT NULL OR breaker_failures >= :breaker))
"""
_ORDER = "ORDER BY priority DESC, fair_tag, seq LIMIT :n"
_TAKE = """
    status='running', attempt=attempt+1, locked_by=:worker,
    lease_ms=COALESCE(:lease_ms, (SELECT q.lease_ms FROM queues q WHERE q.model_profile=jobs.model_profile), :usual_ms),
    lease_token=random_hex(), lease_expires_at=now_ms()+LEAST(timeout_ms,
      COALESCE(:lease_ms, (SELECT q.lease_ms FROM queues q WHERE q.model_profile=jobs.model_profile), :usual_ms)),
    heartbeat_at=now_ms(), attempt_started_at=now_ms(), started_at=COALESCE(started_at, now_ms())
"""
# MATERIALIZED keeps the planner from running the pick again and taking more than :n.
_CLAIM_POSTGRES = """
WITH picked AS MATERIALIZED (SELECT seq FROM jobs WHERE {which} SKIP_LOCKED),
moved AS (UPDATE jobs SET {take} FROM picked WHERE jobs.seq=picked.seq RETURNING {columns}),
noted AS (INSERT INTO job_events
    (job_seq, at, kind, actor, from_status, to_status, attempt, ms, owner_service, model_profile, task_type)
  SELECT seq, attempt_started_at, 'claimed', locked_by, 'pending', 'running', attempt,
    GREATEST(attempt_started_at-available_at, 0), owner_service, model_profile, task_type FROM moved)
SELECT * FROM moved
"""
_CLAIM_SQLITE = "UPDATE jobs SET {take} WHERE seq IN (SELECT seq FROM jobs WHERE {which}) RETURNING {columns}"

_NEXT_TASK = """
SELECT task_type FROM jobs WHERE status='pending' AND ready=1 AND model_profile=:profile AND task_type>:task
ORDER BY task_type LIMIT 1
"""
_NEXT_PROFILE = """
SELECT model_profile, task_type FROM jobs WHERE status='pending' AND ready=1 AND model_profile>:profile
ORDER BY model_profile, task_type LIMIT 1
"""


class Claiming:
    """The operations of `JobRepository.claim`. `usual_ms` is the lease where nobody says otherwise."""

    def __init__(self, spelling: Spelling, usual_ms: int) -> None:
        self._usual_ms = usual_ms
        self._postgres = spelling.name == "postgresql"
        self._now = spelling.sql("SELECT now_ms()")
        self._pick = self._statement(spelling, f"{_READY} {_UNLIMITED} {_ORDER}")
        self._pick_one = self._statement(spelling, f"{_READY} {_UNLIMITED} AND jobs.id=:id {_ORDER}")
        these = "seq IN :seqs ORDER BY priority DESC, fair_tag, seq LIMIT :n"
        self._pick_these = self._statement(spelling, these, bindparam("seqs", expanding=True))
        excluded = "AND owner_service NOT IN :full"
        self._candidates = spelling.sql(
            f"SELECT seq, owner_service FROM jobs WHERE {_READY} {excluded} "  # noqa: S608 — no value in it
            f"AND (CAST(:id AS TEXT) IS NULL OR jobs.id=:id) {_ORDER} SKIP_LOCKED"
        ).bindparams(bindparam("full", type_=Text, expanding=True))
        self._limited = spelling.sql(_LIMITED)
        self._next_task, self._next_profile = spelling.sql(_NEXT_TASK), spelling.sql(_NEXT_PROFILE)

    def _statement(self, spelling: Spelling, which: str, *binds: BindParameter[Any]) -> TextualSelect:
        template = _CLAIM_POSTGRES if self._postgres else _CLAIM_SQLITE
        statement = spelling.sql(template.format(which=which, take=_TAKE, columns=JOB_COLUMNS))
        return statement.bindparams(*binds).columns(*JOB_TYPES)

    def ready_pairs(self, connection: Connection) -> list[Pair]:
        """Every pair with ready work, by name. Two look-ups for each: a row-value comparison scans on SQLite."""
        pairs: list[Pair] = []
        profile, task = "", ""
        while True:
            row = None
            if pairs:
                row = connection.execute(self._next_task, {"profile": profile, "task": task}).first()
            if row is not None:
                task = row[0]
            else:
                row = connection.execute(self._next_profile, {"profile": profile}).first()
                if row is None:
                    return pairs
                profile, task = row
            pairs.append((profile, task))

    def may_be_limited(self, connection: Connection, pair: Pair) -> bool:
        """Whether `take` left jobs of `pair` alone because something is limited, and not because there are none."""
        return bool(connection.execute(self._limited, {"profile": pair[0], "breaker": BREAKER_FAILURES}).scalar())

    def take(
        self, connection: Connection, pair: Pair, worker: str, n: int, lease_ms: int | None, job_id: str | None
    ) -> list[Job]:
        """Up to `n` jobs of `pair`, unless something is limited there."""
        statement = self._pick if job_id is None else self._pick_one
        values = {"profile": pair[0], "task": pair[1], "breaker": BREAKER_FAILURES, "id": job_id}
        return self._taken(connection, statement, values, worker, n, lease_ms)

    def within_limits(
        self, connection: Connection, pair: Pair, worker: str, n: int, lease_ms: int | None, job_id: str | None
    ) -> list[Job]:
        """Up to `n` jobs of `pair` that fit what queue, breaker and owners allow; counting under their locks."""
        profile, task = pair
        queue = connection.execute(select(queues).where(queues.c.model_profile == profile).with_for_update()).first()
        n = min(n, self._room(connection, queue, profile))
        capped = connection.execute(
            select(owners.c.owner_service, owners.c.max_running)
            .where(owners.c.max_running.is_not(None))
            .order_by(owners.c.owner_service)
            .with_for_update()
        ).all()
        if n <= 0:
            return []
        room = {owner: most - count_running(connection, owner=owner) for owner, most in capped}
        full = [owner for owner, left in room.items() if left <= 0]
        found = connection.execute(
            self._candidates, {"profile": profile, "task": task, "n": 4 * n, "full": full, "id": job_id}
        ).all()
        seqs: list[int] = []
        for seq, owner in found:
            left = room.get(owner, 1)
            if left > 0 and len(seqs) < n:
                seqs.append(seq)
                if owner in room:
                    room[owner] = left - 1
        return self._taken(connection, self._pick_these, {"seqs": seqs}, worker, n, lease_ms) if seqs else []

    def _room(self, connection: Connection, queue: Row[Any] | None, profile: str) -> int:
        """How many more may run on `profile`."""
        plenty = 1 << 30
        if queue is None:
            return plenty
        now = connection.execute(self._now).scalar_one()
        if queue.paused or (queue.held_until or 0) > now:
            return 0
        most = plenty if queue.max_running is None else queue.max_running
        if queue.breaker_failures >= BREAKER_FAILURES:
            most = min(1, most)
        return most - count_running(connection, profile=profile) if most < plenty else plenty

    def _taken(
        self,
        connection: Connection,
        statement: TextualSelect,
        values: dict[str, Any],
        worker: str,
        n: int,
        lease_ms: int | None,
    ) -> list[Job]:
        values = values | {"worker": worker, "n": n, "lease_ms": lease_ms, "usual_ms": self._usual_ms}
        taken = [job_of(row) for row in connection.execute(statement, values).all()]
        if not self._postgres:
            record(connection, [_claimed(job) for job in taken])
        # RETURNING has no order.
        return sorted(taken, key=lambda job: (-job.priority, job.fair_tag, job.seq))


def _claimed(job: Job) -> Happened:
    at = job.attempt_started_at or 0
    return Happened(job, EventKind.CLAIMED, job.locked_by or "", JobStatus.PENDING, at, JobStatus.RUNNING)


def count_running(connection: Connection, *, profile: str | None = None, owner: str | None = None) -> int:
    """How many jobs run of a profile, of an owner."""
    query = select(func.count()).select_from(jobs).where(jobs.c.status == text("'running'"))
    query = query.with_hint(jobs, "INDEXED BY ix_running", "sqlite")
    if profile is not None:
        query = query.where(jobs.c.model_profile == profile)
    if owner is not None:
        query = query.where(jobs.c.owner_service == owner)
    return int(connection.execute(query).scalar_one())
