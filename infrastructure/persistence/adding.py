"""Putting jobs in line: one transaction, all or none."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, Select, func, insert, select, text, update

from domain.errors import IdempotencyMismatch, InvalidRequest
from domain.fairness import step_of
from domain.job import EventKind, Job, JobStatus
from domain.job_limits import OwnerRules
from domain.job_repository import Added, Placed
from domain.new_job import DAY_MS, NewBatch, NewJob
from domain.placing import arranged, check_priority, check_quota, made
from infrastructure.persistence.database import Spelling
from infrastructure.persistence.history import Happened, record
from infrastructure.persistence.places import end_of_line
from infrastructure.persistence.rows import COLUMNS, as_json, in_chunks, job_of, row_of
from infrastructure.persistence.rules import owner_rules
from infrastructure.persistence.tables import batches, jobs, owner_days

_CHUNK = 500
# Written out, here and below: a partial index serves only where its condition is seen, not bound.
OPEN = "status IN ('pending','running')"
_JOB = [jobs.c[name] for name in COLUMNS]


class Adding:
    """The operation of `JobRepository.add`."""

    def __init__(self, spelling: Spelling) -> None:
        self._now = spelling.sql("SELECT now_ms()")

    def add(
        self, connection: Connection, wanted: Sequence[NewJob], batch: NewBatch | None, *, again: bool = False
    ) -> Added:
        """Insert what is not there yet. A unique index that refuses after all means that a twin was quicker.

        `again` says that the same was tried before: it may have been committed without anybody hearing of it.
        """
        if again and (before := _stored_before(connection, wanted, batch)):
            return before
        if batch is not None and (replay := _replayed(connection, batch)):
            return replay
        owner = wanted[0].owner_service
        plan = arranged(
            wanted,
            {job.idempotency_key or "": job for job in _by_key(connection, owner, wanted)},
            {job.dedupe_key or "": job for job in _active(connection, owner, wanted)},
            indexed=batch is not None,
        )
        fresh = [(index, entry) for index, entry in enumerate(plan) if isinstance(entry, NewJob)]
        now = int(connection.execute(self._now).scalar_one())
        rules = owner_rules(connection, owner, lock=bool(fresh))
        for index, new in fresh:
            check_priority(rules, new, index if batch else None)
        rows = self._rows(connection, fresh, rules, batch, now)
        texts = [row_of(job) for job in rows]
        if fresh:
            self._spend(connection, rules, len(fresh), sum(text["input_bytes"] for text in texts), now)
        stored: dict[str, Job] = {}
        for part, part_texts in zip(in_chunks(rows, _CHUNK), in_chunks(texts, _CHUNK), strict=True):
            found = connection.execute(insert(jobs).returning(jobs.c.id, jobs.c.seq), part_texts)
            seqs: dict[str, int] = {row.id: row.seq for row in found}
            kept = [_numbered(job, seqs[job.id]) for job in part]
            stored |= {job.id: job for job in kept}
            record(
                connection,
                [Happened(job, EventKind.CREATED, owner, None, now, JobStatus.PENDING) for job in kept],
            )
        placed = _placed(plan, stored)
        added = Added(placed, batch.id if batch else None, replayed=_is_replay(wanted, placed, batch))
        if batch is not None:
            _keep(connection, batch, placed, now)
        return added

    def _rows(
        self,
        connection: Connection,
        fresh: Sequence[tuple[int, NewJob]],
        rules: OwnerRules,
        batch: NewBatch | None,
        now: int,
    ) -> list[Job]:
        """New jobs with their places in line."""
        tags: dict[str, float] = {}
        timeouts: dict[str, int | None] = {}
        rows: list[Job] = []
        for index, new in fresh:
            profile, step = new.model_profile, step_of(new.cost, rules.weight)
            if profile in tags:
                tags[profile] += step
            else:
                tags[profile], timeouts[profile] = end_of_line(connection, profile, rules.owner_service, step)
            try:
                rows.append(made(new, now, tags[profile], timeouts[profile], batch))
            except InvalidRequest as refusal:
                if batch is not None:
                    refusal.details["index"] = index
                raise
        return rows

    def _spend(self, connection: Connection, rules: OwnerRules, count: int, size: int, now: int) -> None:
        """Check what the owner may have, and count the bytes. Raises QuotaExceeded before it writes."""
        limited = (rules.max_pending, rules.input_bytes_per_day, rules.tokens_per_day)
        if all(limit is None for limit in limited):
            return
        day = now // DAY_MS
        pending = count_pending(connection, rules.owner_service) + count
        key = (owner_days.c.owner_service == rules.owner_service) & (owner_days.c.day == day)
        used = connection.execute(select(owner_days.c.input_bytes, owner_days.c.tokens).where(key)).first()
        input_bytes, tokens = used or (0, 0)
        check_quota(rules, pending=pending, input_bytes=input_bytes + size, tokens=tokens, now=now)
        if used is None:
            row = {"owner_service": rules.owner_service, "day": day, "input_bytes": size, "tokens": 0}
            connection.execute(insert(owner_days).values(row))
        else:
            connection.execute(update(owner_days).where(key).values(input_bytes=input_bytes + size))


def count_pending(connection: Connection, owner: str) -> int:
    """How many jobs of `owner` are pending."""
    found = (
        select(func.count()).select_from(jobs).where(jobs.c.owner_service == owner, jobs.c.status == text("'pending'"))
    )
    return int(connection.execute(found.with_hint(jobs, "INDEXED BY ix_owner_pending", "sqlite")).scalar_one())


def _numbered(job: Job, seq: int) -> Job:
    object.__setattr__(job, "seq", seq)  # the row is made here and nobody has seen it yet
    return job


def _by_key(connection: Connection, owner: str, wanted: Sequence[NewJob]) -> list[Job]:
    keys = [new.idempotency_key for new in wanted if new.idempotency_key is not None]
    return _found(
        connection,
        [select(*_JOB).where(jobs.c.owner_service == owner, jobs.c.idempotency_key.in_(c)) for c in _parts(keys)],
    )


def _active(connection: Connection, owner: str, wanted: Sequence[NewJob]) -> list[Job]:
    keys = [new.dedupe_key for new in wanted if new.dedupe_key is not None]
    open_ = text(OPEN)
    return _found(
        connection,
        [select(*_JOB).where(jobs.c.owner_service == owner, jobs.c.dedupe_key.in_(c), open_) for c in _parts(keys)],
    )


def _parts(keys: Sequence[str]) -> list[Sequence[str]]:
    return in_chunks(sorted(set(keys)), _CHUNK)


def _found(connection: Connection, queries: Sequence[Select[tuple[object, ...]]]) -> list[Job]:
    return [job_of(row) for query in queries for row in connection.execute(query)]


def _placed(plan: Sequence[NewJob | Placed | int], stored: dict[str, Job]) -> list[Placed]:
    placed: list[Placed] = []
    for entry in plan:
        if isinstance(entry, int):
            twin = placed[entry]
            placed.append(Placed(twin.id, twin.status, created=False, job=twin.job))
        elif isinstance(entry, Placed):
            placed.append(entry)
        else:
            placed.append(Placed(entry.id, JobStatus.PENDING, created=True, job=stored[entry.id]))
    return placed


def _is_replay(wanted: Sequence[NewJob], placed: Sequence[Placed], batch: NewBatch | None) -> bool:
    """Whether a single job was answered by its own idempotency key."""
    if batch is not None or placed[0].created:
        return False
    there = placed[0].job
    return (
        there is not None and there.idempotency_key is not None and (there.idempotency_key == wanted[0].idempotency_key)
    )


def _stored_before(connection: Connection, wanted: Sequence[NewJob], batch: NewBatch | None) -> Added | None:
    """What an earlier try of the same call stored: the ids are those of this call, nobody else has them."""
    if batch is not None:
        response = connection.execute(select(batches.c.response).where(batches.c.id == batch.id)).scalar()
        return None if response is None else Added(_entries(response), batch.id)
    there = _found(connection, [select(*_JOB).where(jobs.c.id == wanted[0].id)])
    return Added([Placed(job.id, job.status, created=True, job=job) for job in there]) if there else None


def _replayed(connection: Connection, batch: NewBatch) -> Added | None:
    """The answer that this batch key had before. Raises IdempotencyMismatch."""
    if batch.idempotency_key is None:
        return None
    there = connection.execute(
        select(batches.c.id, batches.c.request_sha256, batches.c.response).where(
            batches.c.owner_service == batch.owner_service, batches.c.idempotency_key == batch.idempotency_key
        )
    ).first()
    if there is None:
        return None
    batch_id, sha, response = there
    if sha != batch.request_sha256:
        raise IdempotencyMismatch
    return Added(_entries(response), batch_id, replayed=True)


def _entries(response: str) -> list[Placed]:
    return [Placed(job_id, JobStatus(status), created) for job_id, status, created in json.loads(response)]


def _keep(connection: Connection, batch: NewBatch, placed: Sequence[Placed], now: int) -> None:
    response = as_json([[one.id, str(one.status), one.created] for one in placed])
    connection.execute(
        insert(batches).values(
            id=batch.id,
            owner_service=batch.owner_service,
            idempotency_key=batch.idempotency_key,
            request_sha256=batch.request_sha256,
            response=response,
            created_at=now,
        )
    )
