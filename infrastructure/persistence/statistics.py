"""Counts and times of jobs, from the roll-up and the few events that are not in it yet."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import BindParameter, Connection, Text, bindparam, select

from domain.histogram import Histogram, add, quantile
from domain.job import JobStatus
from infrastructure.persistence.database import Database
from infrastructure.persistence.rollup import (
    DAY,
    KEYS,
    MINUTE,
    Counts,
    Folding,
    Key,
    folded_until,
    of_events,
    of_rollup,
)
from infrastructure.persistence.tables import job_events, job_rollup

HOUR = 60 * MINUTE
_CODES_SHOWN = 50
_FAILING = {"failed", "retry_scheduled", "reaped", "snoozed", "expired"}
_OWNER, _PROFILE, _TASK, _KIND, _FROM, _TO, _CODE = range(len(KEYS))

_LINE = """
SELECT COUNT(*) FILTER (WHERE status='pending' AND ready=1 AND NOT held) AS ready,
  COUNT(*) FILTER (WHERE status='pending' AND ready=1 AND held) AS held,
  COUNT(*) FILTER (WHERE status='pending' AND ready=0 AND attempt=0) AS scheduled,
  COUNT(*) FILTER (WHERE status='pending' AND ready=0 AND attempt>0) AS retry_wait,
  COUNT(*) FILTER (WHERE status='running' AND cancel_requested_at IS NULL AND lease_expires_at < now) AS lease_expired,
  COUNT(*) FILTER (WHERE status='running' AND cancel_requested_at IS NOT NULL) AS cancelling,
  MIN(CASE WHEN status='pending' AND ready=1 AND NOT held THEN available_at END) AS oldest,
  COUNT(*) FILTER (WHERE {untold}) AS undispatched, MIN(CASE WHEN {untold} THEN available_at END) AS undispatched_since
FROM (SELECT jobs.*, now_ms() AS now, EXISTS (SELECT 1 FROM queues WHERE queues.model_profile=jobs.model_profile
    AND (paused=1 OR held_until > now_ms())) AS held
  FROM jobs WHERE status IN ('pending','running') {owners}) AS line
"""
_UNTOLD = "status='pending' AND ready=1 AND NOT held AND dispatched_at IS NULL AND task_type IN :dispatched"
_WEBHOOKS = """
SELECT COUNT(*) FILTER (WHERE status='queued') AS queued, MIN(CASE WHEN status='queued' THEN created_at END) AS oldest,
  COUNT(*) FILTER (WHERE status='failed' AND created_at > now_ms() - 86400000) AS failed
FROM webhook_deliveries WHERE status IN ('queued', 'failed') {owners}
"""
_SIZES = {
    "sqlite": "SELECT (SELECT page_count FROM pragma_page_count()) * (SELECT page_size FROM pragma_page_size())",
    "postgresql": "SELECT pg_database_size(current_database())",
}
_QUEUES = "SELECT model_profile, paused, CASE WHEN held_until > now_ms() THEN held_until END AS held_until FROM queues"


class SqlJobStatistics:
    """JobStatistics in a database. `wall` is this process's own clock in seconds, to tell how far it is off.

    `dispatched` are the task types of which a broker is told.
    """

    def __init__(
        self, database: Database, wall: Callable[[], float] = time.time, *, dispatched: Collection[str] = ()
    ) -> None:
        self._database, self._wall, self._dispatched = database, wall, sorted(dispatched)
        sql, self._dialect = database.spelling.sql, database.spelling.name
        self._folding = Folding(database)
        self._now, self._size, self._queues = sql("SELECT now_ms()"), sql(_SIZES[self._dialect]), sql(_QUEUES)
        mine: BindParameter[Any] = bindparam("owners", type_=Text, expanding=True)
        only = "AND owner_service IN :owners"
        told: BindParameter[Any] = bindparam("dispatched", type_=Text, expanding=True)
        line = _LINE.replace("{untold}", _UNTOLD)
        self._line = {True: sql(line.replace("{owners}", "")).bindparams(told)}
        self._line[False] = sql(line.replace("{owners}", only)).bindparams(told, mine)
        self._webhooks = {True: sql(_WEBHOOKS.replace("{owners}", ""))}
        self._webhooks[False] = sql(_WEBHOOKS.replace("{owners}", only)).bindparams(mine)

    async def fold(self) -> int:
        """Fold minutes that are over into counts."""
        return await self._folding.fold()

    async def stats(self, window_ms: int, owners: Collection[str] | None = None) -> Mapping[str, Any]:
        """The document of `GET /stats`. Windows begin at a full minute; day-old figures at a full day."""
        return await self._database.read(lambda connection: self._document(connection, window_ms, owners))

    def _document(self, connection: Connection, window_ms: int, owners: Collection[str] | None) -> dict[str, Any]:
        now = int(connection.execute(self._now).scalar_one())
        known = {"owners": sorted(owners)} if owners is not None else {}
        told = {"dispatched": self._dispatched}
        line = connection.execute(self._line[owners is None], known | told).one()._mapping
        webhooks = connection.execute(self._webhooks[owners is None], known).one()._mapping
        queues = {row.model_profile: row for row in connection.execute(self._queues)}
        everything = _events(connection, 0, owners)
        window = _events(connection, now - window_ms, owners)
        hour, day = _events(connection, now - HOUR, owners), _events(connection, now - DAY, owners)
        standing = _standing(everything)
        served = _sum(window, _OWNER, lambda key: key[_KIND] == "completed")
        by_profile = _open(standing, _PROFILE)
        return {
            "generated_at": now,
            "jobs": {str(status): sum(standing[status].values()) for status in JobStatus},
            "queue": {
                **{name: line[name] for name in ("ready", "scheduled", "retry_wait", "held", "lease_expired")},
                "cancelling": line["cancelling"],
                "oldest_ready_age_seconds": _age(now, line["oldest"]),
            },
            "by_model_profile": [
                {
                    "model_profile": profile,
                    **counts,
                    "paused": profile in queues and bool(queues[profile].paused),
                    "held_until": queues[profile].held_until if profile in queues else None,
                }
                for profile, counts in by_profile.items()
            ],
            "by_owner": [
                {"owner_service": owner, **counts, "share_served": served[owner] / max(1, sum(served.values()))}
                for owner, counts in _open(standing, _OWNER, also=served).items()
            ],
            "by_task_type": [{"task_type": task, **counts} for task, counts in _open(standing, _TASK).items()],
            "errors": _errors(hour, day, everything),
            "throughput": {"completed_per_minute": self._throughput(connection, now, owners, hour)},
            "latency": _latency(window),
            "attempts": _attempts(window, hour),
            "dispatch": {
                "undispatched": line["undispatched"],
                "oldest_undispatched_age": _age(now, line["undispatched_since"]),
            },
            "webhooks": {
                "queued": webhooks["queued"],
                "failed_24h": webhooks["failed"],
                "oldest_age_seconds": _age(now, webhooks["oldest"]),
            },
            "tokens": {
                "in": sum(counts.tokens_in for counts in window.values()),
                "out": sum(counts.tokens_out for counts in window.values()),
            },
            "db": {
                "dialect": self._dialect,
                "size_bytes": connection.execute(self._size).scalar(),
                "clock_skew_ms": round(self._wall() * 1000) - now,
            },
        }

    def _throughput(
        self, connection: Connection, now: int, owners: Collection[str] | None, hour: Mapping[Key, Counts]
    ) -> dict[str, float]:
        spans = {
            "1m": (1, _events(connection, now - MINUTE, owners)),
            "5m": (5, _events(connection, now - 5 * MINUTE, owners)),
            "1h": (60, hour),
        }
        done = {name: _count(found, "completed") / minutes for name, (minutes, found) in spans.items()}
        return {name: round(rate, 2) for name, rate in done.items()}


def _events(connection: Connection, since: int, owners: Collection[str] | None) -> dict[Key, Counts]:
    """What happened since the full minute of `since`: roll-up, then the events that are not in it."""
    until = folded_until(connection)
    since = max(0, since) // MINUTE * MINUTE
    rolled = select(job_rollup)
    if since:
        rolled = rolled.where(job_rollup.c.bucket >= since)
    tail = select(job_events).where(job_events.c.at >= max(since, until))
    if owners is not None:
        rolled = rolled.where(job_rollup.c.owner_service.in_(list(owners)))
        tail = tail.where(job_events.c.owner_service.in_(list(owners)))
    found = of_rollup(connection.execute(rolled))
    for key, counts in of_events(connection.execute(tail)).items():
        found.setdefault(key, Counts()).add(counts)
    return found


def _standing(everything: Mapping[Key, Counts]) -> dict[str, Counter[Key]]:
    """Status → how many jobs are in it now, by (owner, profile, task): those that entered less those that left."""
    now: dict[str, Counter[Key]] = {str(status): Counter() for status in JobStatus}
    for key, counts in everything.items():
        whose = key[:_KIND]
        if key[_TO]:
            now[key[_TO]][whose] += counts.n
        if key[_FROM]:
            now[key[_FROM]][whose] -= counts.n
    return now


def _open(standing: Mapping[str, Counter[Key]], by: int, also: Collection[str] = ()) -> dict[str, dict[str, int]]:
    """Name → pending and running, for every name that has either, or is in `also`."""
    found: dict[str, dict[str, int]] = {name: {"pending": 0, "running": 0} for name in also}
    for status in ("pending", "running"):
        for whose, count in standing[status].items():
            if count:
                found.setdefault(whose[by], {"pending": 0, "running": 0})[status] += count
    return dict(sorted(found.items()))


def _sum(found: Mapping[Key, Counts], by: int, wanted: Callable[[Key], bool]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for key, counts in found.items():
        if wanted(key):
            sums[key[by]] += counts.n
    return sums


def _count(found: Mapping[Key, Counts], kind: str) -> int:
    return sum(counts.n for key, counts in found.items() if key[_KIND] == kind)


def _errors(hour: Mapping[Key, Counts], day: Mapping[Key, Counts], ever: Mapping[Key, Counts]) -> dict[str, Any]:
    def failing(key: Key) -> bool:
        return key[_KIND] in _FAILING and bool(key[_CODE])

    spans = {
        name: _sum(found, _CODE, failing) for name, found in (("last_1h", hour), ("last_24h", day), ("total", ever))
    }
    shown = [code for code, _ in spans["total"].most_common(_CODES_SHOWN)]
    by_code = {code: {name: sums[code] for name, sums in spans.items()} for code in shown}
    if len(spans["total"]) > len(shown):
        by_code["other"] = {
            name: sum(count for code, count in sums.items() if code not in shown) for name, sums in spans.items()
        }
    again = _sum(ever, _TO, failing)
    return {"by_code": by_code, "retryable": again["pending"], "terminal": again["failed"]}


def _latency(window: Mapping[Key, Counts]) -> dict[str, dict[str, int | None]]:
    times: dict[str, Histogram] = {"queue_wait": {}, "run": {}, "end_to_end": {}}
    for counts in window.values():
        add(times["queue_wait"], counts.wait)
        add(times["run"], counts.run)
        add(times["end_to_end"], counts.end_to_end)
    return {
        name: {f"p{percent}_ms": quantile(counts, percent / 100) for percent in (50, 95, 99)}
        for name, counts in times.items()
    }


def _attempts(window: Mapping[Key, Counts], hour: Mapping[Key, Counts]) -> dict[str, float]:
    done = _count(window, "completed")
    return {
        "mean": sum(counts.attempts for counts in window.values()) / done if done else 0.0,
        "gt1_share": sum(counts.repeated for counts in window.values()) / done if done else 0.0,
        "rescued_1h": _count(hour, "reaped"),
    }


def _age(now: int, since: int | None) -> float:
    return 0.0 if since is None else max(0, now - since) / 1000
