"""PostgreSQL: a pool of connections, every call bounded in time."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from domain.errors import DatabaseUnavailable, StorageFull
from infrastructure.persistence.database import POSTGRES, Operation, Spelling, T
from infrastructure.persistence.failures import is_passing, meaning_of

_TRIES = 5
_IDLE = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections, and how long anything may take, in seconds."""

    pool_size: int = 24
    connect: float = 2.0
    statement: float = 15.0
    lock: float = 3.0
    schema: str | None = None


class PostgresDatabase:
    """A Database at `url`. Nothing is connected before the first operation."""

    def __init__(self, url: str, bounds: Bounds | None = None, *, spelling: Spelling = POSTGRES) -> None:
        bounds = bounds or Bounds()
        self._spelling = spelling
        self.refused_at: float | None = None
        server = {
            "application_name": bounds.schema or "ingle",
            "statement_timeout": str(int(bounds.statement * 1000)),
            "lock_timeout": str(int(bounds.lock * 1000)),
            "idle_in_transaction_session_timeout": str(int(bounds.statement * 1000)),
            "jit": "off",
        }
        if bounds.schema:
            server["search_path"] = bounds.schema
        self._engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            pool_size=bounds.pool_size,
            max_overflow=0,
            pool_timeout=bounds.connect,
            hide_parameters=True,
            skip_autocommit_rollback=True,
            connect_args={
                "timeout": bounds.connect,
                "command_timeout": bounds.statement + 1,
                "server_settings": server,
            },
        )
        _ping_the_idle(self._engine.sync_engine)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def spelling(self) -> Spelling:
        """PostgreSQL's."""
        return self._spelling

    async def read(self, operation: Operation[T]) -> T:
        """What `operation` finds."""
        return await self._run(operation, repeatable=True, autocommit=True)

    async def write(self, operation: Operation[T], *, repeatable: bool = False) -> T:
        """What `operation` gives, once it is committed."""
        return await self._run(operation, repeatable=repeatable, autocommit=False)

    async def statement(self, operation: Operation[T]) -> T:
        """What `operation` gives; its one statement is its own transaction."""
        return await self._run(operation, repeatable=False, autocommit=True)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()

    async def raw_connection(self) -> Any:
        """The driver's own connection, for LISTEN, which outlives statements; whoever asks for it closes it."""
        try:
            fairy = await self._engine.raw_connection()
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseUnavailable from error
        # Taken before the pool forgets it.
        driver = fairy.driver_connection
        fairy.detach()
        return driver

    async def _run(self, operation: Operation[T], *, repeatable: bool, autocommit: bool) -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                if autocommit:
                    async with self._autocommit.connect() as connection:
                        return await connection.run_sync(operation)
                async with self._engine.begin() as connection:
                    return await connection.run_sync(operation)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                if not (repeatable and is_passing(error) and attempt < _TRIES):
                    meaning = meaning_of(error)
                    if isinstance(meaning, StorageFull):
                        self.refused_at = time.monotonic()
                    raise meaning or error from error
            await asyncio.sleep(random.uniform(0, 0.01) * 2**attempt)  # noqa: S311 — spreads those that collided
        raise AssertionError("the last try returns or raises")


def _ping_the_idle(engine: Engine) -> None:
    """Ask a connection that nobody used for a while whether it lives; asking each time would cost a round trip."""
    used = "used_at"

    @event.listens_for(engine, "checkin")
    def note(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info[used] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ask(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get(used, time.monotonic()) < _IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            # The pool makes a new connection then.
            raise DisconnectionError from error
