"""Whether the database can be asked, takes writes, and has the schema of this code."""

import asyncio
import time
from collections.abc import Mapping

from sqlalchemy import Connection, text

from domain.errors import IngleError, StorageFull
from infrastructure.persistence.database import Database
from infrastructure.persistence.schema import is_current

_PATIENCE = 1.0
_REFUSED_SECONDS = 5.0


class SqlDatabaseHealth:
    """DatabaseHealth of a database."""

    def __init__(self, database: Database, *, refused_seconds: float = _REFUSED_SECONDS) -> None:
        self._database = database
        self._refused_seconds = refused_seconds

    async def check(self) -> Mapping[str, str]:
        """`database`: ok, down, or full; `schema`: ok, behind or unknown."""
        try:
            async with asyncio.timeout(_PATIENCE):
                current = await is_current(self._database)
                schema = "ok" if current else "behind"
                return {"database": "ok" if await self._takes_writes() else "full", "schema": schema}
        except (IngleError, TimeoutError):
            return {"database": "down", "schema": "unknown"}

    async def _takes_writes(self) -> bool:
        """Only a write tells, and only where one was refused is there a doubt.

        A full disk has room for a small write now and then: one that was refused counts for some seconds.
        """
        refused_at = self._database.refused_at
        if refused_at is None:
            return True
        if time.monotonic() - refused_at < self._refused_seconds:
            return False
        try:
            await self._database.write(_touch)
        except StorageFull:
            return False
        self._database.refused_at = None
        return True


def _touch(connection: Connection) -> None:
    """Write what is there already."""
    connection.execute(text("UPDATE alembic_version SET version_num=version_num"))
