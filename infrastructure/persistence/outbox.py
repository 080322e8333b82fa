"""Deliveries of job events: what the transitions wrote, for a dispatcher to take."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from application.job_ports import Delivery, DeliveryStatus, Tried
from domain.errors import JobNotFound
from infrastructure.persistence.database import Database
from infrastructure.persistence.tables import webhook_deliveries

_AHEAD_MS = 60_000
_D = webhook_deliveries.c

_TAKE = """
UPDATE webhook_deliveries SET tries=tries+1, next_at=now_ms()+:ahead
WHERE id IN (SELECT id FROM webhook_deliveries WHERE status='queued' AND next_at <= now_ms()
  ORDER BY next_at LIMIT :n SKIP_LOCKED)
RETURNING *
"""
_TRIED = """
UPDATE webhook_deliveries SET status=:status, last_status=:http, last_error=:error, next_at=now_ms()+:retry_ms
WHERE id=:id RETURNING owner_service, endpoint
"""
_POSTPONE = "UPDATE webhook_deliveries SET tries=tries-1, next_at=now_ms()+:ms WHERE id=:id AND status='queued'"
_GONE = """
UPDATE webhook_deliveries SET status='gone' WHERE owner_service=:owner AND endpoint=:endpoint AND status='queued'
"""
# A delivery that succeeds takes back what was said before it.
_BACK = """
UPDATE webhook_deliveries SET status='failed' WHERE owner_service=:owner AND endpoint=:endpoint AND status='gone'
"""
_IS_GONE = """
SELECT EXISTS (SELECT 1 FROM webhook_deliveries WHERE owner_service=:owner AND endpoint=:endpoint AND status='gone')
"""
_REDELIVER = """
UPDATE webhook_deliveries SET status='queued', tries=0, next_at=now_ms() WHERE id=:id RETURNING id
"""


class SqlOutbox:
    """Outbox in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        sql = database.spelling.sql
        self._take, self._tried = sql(_TAKE), sql(_TRIED)
        self._said = {DeliveryStatus.GONE: sql(_GONE), DeliveryStatus.DELIVERED: sql(_BACK)}
        self._is_gone, self._redeliver, self._postpone = sql(_IS_GONE), sql(_REDELIVER), sql(_POSTPONE)

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Deliveries that are due, oldest first."""
        values = {"n": limit, "ahead": _AHEAD_MS}
        rows = await self._database.write(lambda c: c.execute(self._take, values).all())
        return sorted((_delivery(row) for row in rows), key=lambda one: (one.created_at, one.id))

    async def keep_body(self, delivery_id: str, body: str) -> None:
        """Keep what is sent."""
        query = update(webhook_deliveries).where(_D.id == delivery_id, _D.body.is_(None)).values(body=body)
        await self._database.write(lambda c: c.execute(query) and None, repeatable=True)

    async def tried(self, delivery_id: str, outcome: Tried) -> None:
        """Note how a try ended."""
        values = {
            "id": delivery_id,
            "status": str(outcome.status),
            "http": outcome.http_status,
            "error": outcome.error,
            "retry_ms": outcome.retry_ms,
        }

        def write(connection: Connection) -> None:
            row = connection.execute(self._tried, values).first()
            said = self._said.get(outcome.status)
            if row is not None and said is not None:
                connection.execute(said, {"owner": row.owner_service, "endpoint": row.endpoint})

        await self._database.write(write, repeatable=True)

    async def postpone(self, delivery_id: str, ms: int) -> None:
        """Put back one that was taken and not tried."""
        values = {"id": delivery_id, "ms": ms}
        await self._database.write(lambda c: c.execute(self._postpone, values) and None)

    async def is_gone(self, owner_service: str, endpoint: str) -> bool:
        """Whether that endpoint said that it is gone."""
        values = {"owner": owner_service, "endpoint": endpoint}
        return bool(await self._database.read(lambda c: c.execute(self._is_gone, values).scalar()))

    async def deliveries(
        self,
        limit: int,
        before: str | None = None,
        *,
        status: DeliveryStatus | None = None,
        owner_service: str | None = None,
        job_id: str | None = None,
    ) -> Sequence[Delivery]:
        """Newest first."""
        query = select(webhook_deliveries)
        for column, value in (
            (_D.status, status and str(status)),
            (_D.owner_service, owner_service),
            (_D.job_id, job_id),
        ):
            if value is not None:
                query = query.where(column == value)
        if before is not None:
            last = select(_D.created_at).where(_D.id == before).scalar_subquery()
            query = query.where((_D.created_at < last) | ((_D.created_at == last) & (_D.id < before)))
        query = query.order_by(_D.created_at.desc(), _D.id.desc()).limit(limit)
        return [_delivery(row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def redeliver(self, delivery_id: str) -> None:
        """Queue it anew, now."""
        found = await self._database.write(lambda c: c.execute(self._redeliver, {"id": delivery_id}).first())
        if found is None:
            raise JobNotFound("there is no delivery of that id here")


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        job_id=row.job_id,
        owner_service=row.owner_service,
        event=row.event,
        attempt=row.attempt,
        job_status=row.status_then,
        error_code=row.error_code,
        endpoint=row.endpoint,
        headers=None if row.headers is None else json.loads(row.headers),
        body=row.body,
        status=DeliveryStatus(row.status),
        tries=row.tries,
        next_at=row.next_at,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
    )
