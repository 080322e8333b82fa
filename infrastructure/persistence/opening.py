"""From an address to an open database."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from domain.errors import InvalidRequest
from infrastructure.persistence.database import Database
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from infrastructure.persistence.sqlite import SqliteDatabase
from infrastructure.persistence.wake_up import LocalWakeUp, PostgresWakeUp


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How a database is used; times in seconds."""

    sqlite_synchronous: str = "full"
    sqlite_busy_timeout: float = 10.0
    pool_size: int = 24
    connect_timeout: float = 2.0
    statement_timeout: float = 15.0


def open_database(url: str, options: DatabaseOptions | None = None) -> tuple[Database, LocalWakeUp]:
    """The database at `url` (`sqlite:///path` or `postgresql://…`) and its wake-ups, which are to be started.

    Raises InvalidRequest for an address of another kind (it is not repeated: it may hold a password),
    DatabaseUnavailable for a SQLite file on a network disk.
    """
    options = options or DatabaseOptions()
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidRequest("not the address of a database", field="database_url") from None
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database and parsed.database != ":memory:":
        path = Path(parsed.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        database = SqliteDatabase(
            path, synchronous=options.sqlite_synchronous, busy_timeout=options.sqlite_busy_timeout
        )
        return database, LocalWakeUp()
    if kind in ("postgresql", "postgres"):
        bounds = Bounds(options.pool_size, options.connect_timeout, options.statement_timeout)
        postgres = PostgresDatabase(url.replace("postgres://", "postgresql://", 1), bounds)
        return postgres, PostgresWakeUp(postgres)
    raise InvalidRequest("a database is sqlite:///path/to/file or postgresql://…", field="database_url")
