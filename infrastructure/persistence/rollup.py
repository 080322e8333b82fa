"""Folding events into counts: minutes first, days after 48 hours, so that no question counts history."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, text

from domain import histogram
from domain.histogram import Histogram
from infrastructure.persistence.database import Database
from infrastructure.persistence.rows import as_json
from infrastructure.persistence.tables import folded, job_events, job_rollup

MINUTE = 60_000
DAY = 86_400_000
# Longer than any transaction may take: an event that is written late is not missed.
_LATE_MS = 30_000
_MINUTES_KEPT_MS = 2 * DAY
_LOCK = 0x1D61F
_GONE_AT_ONCE = 500

KEYS = ("owner_service", "model_profile", "task_type", "kind", "from_status", "to_status", "error_code")
Key = tuple[str, ...]


@dataclass(slots=True)
class Counts:
    """What is kept of events that have all of KEYS in common. `attempts` and `repeated` count completed jobs only."""

    n: int = 0
    attempts: int = 0
    repeated: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    wait: Histogram = field(default_factory=dict)
    run: Histogram = field(default_factory=dict)
    end_to_end: Histogram = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Count what `other` counts too."""
        self.n += other.n
        self.attempts += other.attempts
        self.repeated += other.repeated
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        histogram.add(self.wait, other.wait)
        histogram.add(self.run, other.run)
        histogram.add(self.end_to_end, other.end_to_end)


def of_events(rows: Iterable[Row[Any]]) -> dict[Key, Counts]:
    """Events as counts."""
    found: dict[Key, Counts] = {}
    for row in rows:
        counts = found.setdefault(tuple(getattr(row, name) or "" for name in KEYS), Counts())
        done = row.kind == "completed"
        counts.n += 1
        counts.attempts += row.attempt if done else 0
        counts.repeated += int(done and row.attempt > 1)
        counts.tokens_in += row.tokens_in or 0
        counts.tokens_out += row.tokens_out or 0
        if row.ms is not None:
            histogram.add(counts.wait if row.kind == "claimed" else counts.run, {histogram.bucket_of(row.ms): 1})
        if done and row.total_ms is not None:
            histogram.add(counts.end_to_end, {histogram.bucket_of(row.total_ms): 1})
    return found


def of_rollup(rows: Iterable[Row[Any]]) -> dict[Key, Counts]:
    """Rows of the roll-up, added up over their buckets."""
    found: dict[Key, Counts] = {}
    for row in rows:
        times = (_read(row.wait_hist), _read(row.run_hist), _read(row.e2e_hist))
        counts = Counts(row.n, row.attempts, row.repeated, row.tokens_in, row.tokens_out, *times)
        found.setdefault(tuple(getattr(row, name) for name in KEYS), Counts()).add(counts)
    return found


def folded_until(connection: Connection) -> int:
    """Events before this time are in the roll-up; 0 where nothing was folded yet."""
    return int(connection.execute(select(func.max(folded.c.until))).scalar() or 0)


class Folding:
    """`JobStatistics.fold`, one bounded transaction at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.spelling.sql("SELECT now_ms()")
        self._postgres = database.spelling.name == "postgresql"

    async def fold(self) -> int:
        """Fold what is over; returns how many minutes had events."""
        done = 0
        while await self._database.write(self._fold_minute, repeatable=True):
            done += 1
        await self._database.write(self._merge_days, repeatable=True)
        while await self._database.write(self._forget_gone, repeatable=True):
            pass
        return done

    def _alone(self, connection: Connection) -> bool:
        """Whether this process may fold now; on SQLite every transaction is alone."""
        if not self._postgres:
            return True
        return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}).scalar())

    def _fold_minute(self, connection: Connection) -> bool:
        """Fold the oldest minute that has events; false where there is none left."""
        if not self._alone(connection):
            return False
        since, now = folded_until(connection), int(connection.execute(self._now).scalar_one())
        cutoff = (now - _LATE_MS) // MINUTE * MINUTE
        at = job_events.c.at
        first = connection.execute(select(func.min(at)).where(at >= since, at < cutoff)).scalar()
        if first is None:
            return False
        minute = first // MINUTE * MINUTE
        rows = connection.execute(select(job_events).where(at >= max(since, minute), at < minute + MINUTE)).all()
        _store(connection, "minute", minute, of_events(rows))
        connection.execute(delete(folded))
        connection.execute(insert(folded).values(until=minute + MINUTE))
        return True

    def _merge_days(self, connection: Connection) -> None:
        if not self._alone(connection):
            return
        now = int(connection.execute(self._now).scalar_one())
        cutoff = (now - _MINUTES_KEPT_MS) // DAY * DAY
        old = (job_rollup.c.span == "minute") & (job_rollup.c.bucket < cutoff)
        by_day: dict[int, list[Row[Any]]] = {}
        for row in connection.execute(select(job_rollup).where(old)):
            by_day.setdefault(row.bucket // DAY * DAY, []).append(row)
        connection.execute(delete(job_rollup).where(old))
        for day, rows in by_day.items():
            there = (job_rollup.c.span == "day") & (job_rollup.c.bucket == day)
            rows += connection.execute(select(job_rollup).where(there)).all()
            connection.execute(delete(job_rollup).where(there))
            _store(connection, "day", day, of_rollup(rows))

    def _forget_gone(self, connection: Connection) -> bool:
        """Remove the events of jobs that are gone, once they are folded."""
        gone = (
            select(job_events.c.job_seq)
            .where(job_events.c.kind == text("'deleted'"), job_events.c.at < folded_until(connection))
            .order_by(job_events.c.at)
            .limit(_GONE_AT_ONCE)
        )
        seqs = list(connection.execute(gone).scalars())
        if seqs:
            connection.execute(delete(job_events).where(job_events.c.job_seq.in_(seqs)))
        return len(seqs) == _GONE_AT_ONCE


def _store(connection: Connection, span: str, bucket: int, found: dict[Key, Counts]) -> None:
    rows: Sequence[dict[str, Any]] = [
        {
            "span": span,
            "bucket": bucket,
            **dict(zip(KEYS, key, strict=True)),
            "n": counts.n,
            "attempts": counts.attempts,
            "repeated": counts.repeated,
            "tokens_in": counts.tokens_in,
            "tokens_out": counts.tokens_out,
            "wait_hist": as_json(counts.wait),
            "run_hist": as_json(counts.run),
            "e2e_hist": as_json(counts.end_to_end),
        }
        for key, counts in found.items()
    ]
    if rows:
        connection.execute(insert(job_rollup), rows)


def _read(value: str | None) -> Histogram:
    return {int(bucket): count for bucket, count in json.loads(value or "{}").items()}
