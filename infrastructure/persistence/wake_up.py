"""Hints that there is work: within the process, and between processes by PostgreSQL's NOTIFY."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection
from typing import Any

import structlog
from sqlalchemy import text

from application.job_ports import OnHint
from domain.errors import IngleError
from infrastructure.persistence.postgres import PostgresDatabase

_CHANNEL = "ingle_jobs"
# At most 20 NOTIFY a second: everything that rings in between goes along with the next.
_EVERY = 0.05
_RECONNECT = 1.0
_PING = 5.0
# PostgreSQL refuses more than 8000 bytes; a hint without names is for everybody.
_MOST_BYTES = 7000

_log = structlog.get_logger(__name__)


class LocalWakeUp:
    """WakeUp within the process: listeners are called at once."""

    def __init__(self) -> None:
        self._listeners: dict[object, OnHint] = {}

    def listen(self, on_hint: OnHint) -> Callable[[], None]:
        """Call `on_hint` for each ring, until what is returned is called."""
        key = object()
        self._listeners[key] = on_hint
        return lambda: self._listeners.pop(key, None) and None

    def ring(self, profiles: Collection[str]) -> None:
        """Tell every listener."""
        for on_hint in list(self._listeners.values()):
            on_hint(profiles)

    async def start(self) -> None:
        """Nothing has to be opened."""

    async def close(self) -> None:
        """Nothing has to be closed."""


class PostgresWakeUp(LocalWakeUp):
    """WakeUp between all processes on one database; one connection listens, which is opened anew when it is lost."""

    def __init__(self, database: PostgresDatabase, *, reconnect_seconds: float = _RECONNECT) -> None:
        super().__init__()
        self._database, self._reconnect = database, reconnect_seconds
        self._told: set[str] = set()
        self._rung = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._listening = asyncio.Event()

    def ring(self, profiles: Collection[str]) -> None:
        """Tell listeners here at once, other processes within a twentieth of a second."""
        super().ring(profiles)
        self._told.update(profiles)
        self._rung.set()

    async def start(self) -> None:
        """Listen and tell until `close`; returns once it listens, or could not for now."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tell())]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), _RECONNECT)

    async def close(self) -> None:
        """Stop both."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            names, self._told = self._told, set()
            payload = json.dumps(sorted(names), ensure_ascii=False)
            if len(payload.encode()) > _MOST_BYTES:
                payload = "[]"
            with contextlib.suppress(IngleError):  # a hint may be lost: whoever waits polls too
                await self._database.statement(
                    lambda c, p=payload: c.execute(text("SELECT pg_notify(:c, :p)"), {"c": _CHANNEL, "p": p})  # type: ignore[misc]
                )
            await asyncio.sleep(_EVERY)

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # whatever the driver calls a lost connection
                _log.warning("job_hints_lost", reason=type(error).__name__)
            await asyncio.sleep(self._reconnect)

    async def _listen_once(self) -> None:
        """Listen until the connection is lost."""
        connection = await self._database.raw_connection()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(_CHANNEL, self._heard)
            self._listening.set()
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), _PING)
                if not lost.is_set():
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        super().ring(json.loads(payload))
