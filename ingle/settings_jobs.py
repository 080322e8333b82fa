"""Settings of the job queue and of the database that it lives in."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingle.settings_marks import From, Shown
from ingle.settings_types import Seconds


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


_DATABASE = r"^(sqlite:///|postgres(ql)?(\+asyncpg)?://)\S+$"


class JobSettings(BaseSettings):
    """Where jobs are kept, and for how long somebody may hold one."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    database_url: Annotated[
        str | None, From("DATABASE_URL"), Field(pattern=_DATABASE), Shown("sqlite:///<data_dir>/ingle.db")
    ] = None
    """Database of jobs: `sqlite:///path/to/file` (unset, `ingle.db` in the data folder) or `postgresql://…`."""

    migrate_on_start: Annotated[bool, From("MIGRATE_ON_START")] = True
    """Whether a server brings the database to its own schema when it starts; otherwise somebody else has to."""

    jobs_lease: Annotated[Seconds, Field(ge=1, le=3600)] = 60.0
    """How long a worker may be silent before its job is given to another, where neither claim nor queue say."""

    sqlite_synchronous: Annotated[Literal["full", "normal"], BeforeValidator(_lower)] = "full"
    """`normal` is quicker, and may lose the last jobs when the power fails; nothing is ever damaged."""

    sqlite_busy_timeout: Seconds = 10.0
    """How long a write waits for another process that holds the SQLite file."""

    db_pool_size: Annotated[int, Field(ge=2, le=1000)] = 24
    """Connections of this process to PostgreSQL."""

    db_connect_timeout: Seconds = 2.0
    """How long connecting to PostgreSQL, or waiting for a free connection, may take."""

    db_statement_timeout: Seconds = 15.0
    """How long one statement on PostgreSQL may take."""
