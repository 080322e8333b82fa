"""Whether the database can be asked, and has the schema of this code."""

import asyncio
from collections.abc import Mapping

from domain.errors import IngleError
from infrastructure.persistence.database import Database
from infrastructure.persistence.schema import is_current

_PATIENCE = 1.0


class SqlDatabaseHealth:
    """DatabaseHealth of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self) -> Mapping[str, str]:
        """`database`: ok or down; `schema`: ok, behind or unknown."""
        try:
            async with asyncio.timeout(_PATIENCE):
                current = await is_current(self._database)
        except (IngleError, TimeoutError):
            return {"database": "down", "schema": "unknown"}
        return {"database": "ok", "schema": "ok" if current else "behind"}
