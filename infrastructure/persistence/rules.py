"""What the operator set for queues and owners."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text, update

from application.job_ports import Holds
from domain.job_limits import OwnerRules, QueueRules, QueueState
from infrastructure.persistence.database import Database
from infrastructure.persistence.rows import as_text, rules_of
from infrastructure.persistence.tables import jobs, owners, queues

_HELD = """
SELECT now_ms() AS now, model_profile FROM (SELECT 1 AS one) AS always
LEFT JOIN queues ON paused=1 OR held_until > now_ms()
"""
_NEXT_READY = """
SELECT model_profile FROM jobs WHERE status='pending' AND ready=1 AND model_profile>:profile
ORDER BY model_profile LIMIT 1
"""
# Those that nobody has promoted yet. A few are enough: whoever claims one promotes all.
_DUE = """
SELECT model_profile FROM jobs WHERE status='pending' AND ready=0 AND available_at <= now_ms()
ORDER BY available_at LIMIT 100
"""


def owner_rules(connection: Connection, owner: str, *, lock: bool = False) -> OwnerRules:
    """The rules of `owner`; `lock` keeps its row for this transaction, so that two creates do not both fit."""
    query = select(owners).where(owners.c.owner_service == owner)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return OwnerRules(owner) if row is None else OwnerRules(**row._asdict())


class SqlJobRules:
    """JobRules in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A row without a profile tells the time where nothing is held.
        self._held = database.spelling.sql(_HELD)
        self._now = database.spelling.sql("SELECT now_ms()")
        self._next_ready, self._due = database.spelling.sql(_NEXT_READY), database.spelling.sql(_DUE)

    async def queues(self) -> Sequence[QueueState]:
        """Every queue that is listed, by name."""
        return await self._database.read(lambda connection: self._states(connection, None))

    async def waiting(self) -> Collection[str]:
        """Profiles with jobs that may be claimed now."""
        return await self._database.read(self._waiting)

    async def queue(self, model_profile: str) -> QueueState:
        """That queue, listed or not."""
        found = await self._database.read(lambda connection: self._states(connection, model_profile))
        return found[0] if found else QueueState(QueueRules(model_profile), None, None, 0, 0)

    async def set_queue(self, rules: QueueRules) -> None:
        """Replace the rules of a queue."""
        values = asdict(rules) | {"retry": as_text(rules.retry), "paused": int(rules.paused)}
        profile = values.pop("model_profile")

        def write(connection: Connection) -> None:
            changed = connection.execute(update(queues).where(queues.c.model_profile == profile).values(values))
            if not changed.rowcount:
                connection.execute(insert(queues).values(model_profile=profile, **values))

        await self._database.write(write, repeatable=True)

    async def owners(self) -> Sequence[OwnerRules]:
        """Every owner with rules, by name."""
        query = select(owners).order_by(owners.c.owner_service)
        return await self._database.read(lambda c: [OwnerRules(**row._asdict()) for row in c.execute(query)])

    async def owner(self, owner_service: str) -> OwnerRules:
        """The rules of that owner, listed or not."""
        return await self._database.read(lambda connection: owner_rules(connection, owner_service))

    async def set_owner(self, rules: OwnerRules) -> None:
        """Replace the rules of an owner."""
        values = asdict(rules)
        owner = values.pop("owner_service")

        def write(connection: Connection) -> None:
            # Not removed and made anew: a create that waits for the row would find none, and so no limits.
            changed = connection.execute(update(owners).where(owners.c.owner_service == owner).values(values))
            if not changed.rowcount:
                connection.execute(insert(owners).values(owner_service=owner, **values))

        await self._database.write(write, repeatable=True)

    async def held(self) -> Holds:
        """What may not be claimed now."""
        rows = await self._database.read(lambda connection: connection.execute(self._held).all())
        return Holds(int(rows[0].now), {row.model_profile for row in rows if row.model_profile is not None})

    def _waiting(self, connection: Connection) -> set[str]:
        found = set(connection.execute(self._due).scalars())
        profile: str | None = ""
        while (profile := connection.execute(self._next_ready, {"profile": profile}).scalar()) is not None:
            found.add(profile)
        return found.difference(row.model_profile for row in connection.execute(self._held))

    def _states(self, connection: Connection, profile: str | None) -> list[QueueState]:
        """One queue, or all."""
        counts: dict[str, dict[str, int]] = {}
        for status, index in (("pending", "ix_owner_pending"), ("running", "ix_running")):
            query = select(jobs.c.model_profile, func.count()).where(jobs.c.status == text(f"'{status}'"))
            query = query.with_hint(jobs, f"INDEXED BY {index}", "sqlite")
            if profile is not None:
                query = query.where(jobs.c.model_profile == profile)
            for name, count in connection.execute(query.group_by(jobs.c.model_profile)):
                counts.setdefault(name, {})[status] = count
        query_rules = select(queues) if profile is None else select(queues).where(queues.c.model_profile == profile)
        rows: dict[str, Row[Any]] = {row.model_profile: row for row in connection.execute(query_rules)}
        names = sorted({*rows, *counts})
        now = int(connection.execute(self._now).scalar_one())
        return [_state(name, rows.get(name), counts.get(name, {}), now) for name in names]


def _state(name: str, row: Row[Any] | None, counts: Mapping[str, int], now: int) -> QueueState:
    pending, running = counts.get("pending", 0), counts.get("running", 0)
    if row is None:
        return QueueState(QueueRules(name), None, None, pending, running)
    rules = QueueRules(name, bool(row.paused), row.max_running, row.lease_ms, row.timeout_ms, rules_of(row.retry))
    until = row.held_until if (row.held_until or 0) > now else None
    return QueueState(rules, until, None if until is None else row.held_reason, pending, running)
