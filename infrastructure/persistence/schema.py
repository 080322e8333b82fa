"""Bringing a database to the schema of this code, and telling whether it is there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.schema import CreateSchema, DropSchema

from domain.errors import SchemaMismatch
from infrastructure.persistence.database import Database
from infrastructure.persistence.postgres import Bounds, PostgresDatabase

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number does, as long as nobody else in the database locks by it.
_LOCK = 0x1D61E


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The revision that this code works with."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def revision_of(connection: Connection) -> str | None:
    """The revision of the database; None where it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


async def migrate(database: Database) -> None:
    """Bring the schema to the head, one process at a time; the others wait. Raises SchemaMismatch for a newer one."""

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            # Migrations of large tables, and the wait for somebody else's, may take longer than a request.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        there, config = revision_of(connection), _config()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if there is not None and there not in known:
            raise SchemaMismatch
        if there != head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    await database.write(upgrade)


async def is_current(database: Database) -> bool:
    """Whether the schema is the one of this code."""
    wanted = head()
    return await database.read(revision_of) == wanted


@asynccontextmanager
async def in_own_schema(url: str) -> AsyncIterator[str]:
    """The name of a new PostgreSQL schema in the database at `url`, dropped with everything in it at the end."""
    name = f"ingle_{uuid4().hex}"
    database = PostgresDatabase(url, Bounds(pool_size=1))
    try:
        await database.write(lambda c: c.execute(CreateSchema(name)) and None)
        try:
            yield name
        finally:
            await database.write(lambda c: c.execute(DropSchema(name, cascade=True)) and None)
    finally:
        await database.close()
