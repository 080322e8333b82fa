"""SQLite in a file: one thread writes, four read.

All writes of the process pass the writer. It runs every operation that waits (up to 64) in one transaction and answers
after the commit, which pays for `synchronous=FULL` and is fair: SQLite's own waiting is neither first come, first
served nor bounded.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from domain.errors import DatabaseBusy, DatabaseUnavailable, IngleError, StorageFull
from infrastructure.persistence.database import SQLITE, Operation, Spelling, T
from infrastructure.persistence.failures import meaning_of

_GROUP = 64
_READERS = 4
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "lustre"}


@dataclass(slots=True)
class _Waiting:
    """An operation and who waits for it."""

    operation: Callable[[Connection], Any]
    answer: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class SqliteDatabase:
    """A Database in the file at `path`, which is made where it is not. Raises DatabaseUnavailable on a network disk."""

    def __init__(
        self, path: Path, *, synchronous: str = "full", busy_timeout: float = 10.0, spelling: Spelling = SQLITE
    ) -> None:
        refuse_network_disk(path)
        self._spelling = spelling
        pragmas = (
            f"PRAGMA busy_timeout={int(busy_timeout * 1000)}",
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={synchronous.upper()}",
            "PRAGMA foreign_keys=ON",
        )
        self._read_engine = _engine(path, (*pragmas, "PRAGMA query_only=ON"), "BEGIN", pooled=True)
        self._write_engine = _engine(path, pragmas, "BEGIN IMMEDIATE", pooled=False)
        self._connection: Connection | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-read")
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self.refused_at: float | None = None
        self._writer = threading.Thread(target=self._write_on, name="sqlite-write", daemon=True)
        self._writer.start()

    @property
    def spelling(self) -> Spelling:
        """SQLite's."""
        return self._spelling

    async def read(self, operation: Operation[T]) -> T:
        """What `operation` finds on one snapshot."""
        if self._closed:
            raise DatabaseUnavailable("the database is closed")

        def run() -> T:
            with self._read_engine.connect() as connection:
                return operation(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except (DBAPIError, OSError) as error:
            raise meaning_of(error) or error from error

    async def write(self, operation: Operation[T], *, repeatable: bool = False) -> T:  # noqa: ARG002
        """What `operation` gives, once the group that it was written with is committed."""
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Waiting(operation, answer))
        return await answer

    async def statement(self, operation: Operation[T]) -> T:
        """Like `write`."""
        return await self.write(operation)

    async def close(self) -> None:
        """Write what waits, then let go of the file."""
        self._closed = True
        self._waiting.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._read_engine.dispose()
        self._write_engine.dispose()

    # -- the writer's thread --------------------------------------------------------------------------

    def _write_on(self) -> None:
        open_ = True
        while open_:
            group: list[_Waiting] = []
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP:
                    one = self._waiting.get(block=not group)
                    if one is None:
                        open_ = False
                        break
                    group.append(one)
            if group:
                self._write_group(group)
                _answer(group)
        self._drop_connection()

    def _write_group(self, group: list[_Waiting]) -> None:
        try:
            self._transact(group)
        except Exception as failure:
            if isinstance(busy := meaning_of(failure), DatabaseBusy):
                # Another process holds the file. Each by itself would wait as long once more, one after the other.
                for one in group:
                    one.error = busy
                return
            # Somebody's operation broke off half way: all of it is undone, and each has a transaction to itself.
            for one in group:
                one.result = one.error = None
                try:
                    self._transact([one])
                except Exception as error:
                    one.error = meaning_of(error) or error
                    if isinstance(one.error, StorageFull):
                        self.refused_at = time.monotonic()

    def _transact(self, group: list[_Waiting]) -> None:
        try:
            if self._connection is None:
                self._connection = self._write_engine.connect()
            with self._connection.begin():
                for one in group:
                    try:
                        one.result = one.operation(self._connection)
                    except IngleError as refusal:
                        one.error = refusal
        except Exception:
            # After a failed BEGIN, COMMIT or a full disk only a new connection is known to be sound.
            self._drop_connection()
            raise

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(DBAPIError):
                self._connection.close()
            self._connection = None


def _answer(group: list[_Waiting]) -> None:
    """Tell everybody, with one wake-up of each event loop."""
    for loop in {one.answer.get_loop() for one in group}:
        mine = [one for one in group if one.answer.get_loop() is loop]
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, mine)


def _settle(group: list[_Waiting]) -> None:
    for one in group:
        if one.answer.done():
            continue
        if one.error is not None:
            one.answer.set_exception(one.error)
        else:
            one.answer.set_result(one.result)


def _engine(path: Path, pragmas: tuple[str, ...], begin: str, *, pooled: bool) -> Engine:
    pool: dict[str, Any] = {"pool_size": _READERS, "max_overflow": 0} if pooled else {"poolclass": NullPool}
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"check_same_thread": False}, **pool)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions of its own
        for pragma in pragmas:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def refuse_network_disk(path: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise DatabaseUnavailable where `path` lies on a disk whose locks and shared memory do not hold."""
    if not mounts.exists():
        return
    target = path.absolute()
    found = ("/", "")
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if target.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    if found[1] in _NETWORK:
        raise DatabaseUnavailable(f"SQLite cannot live on a network disk ({found[1]}): use a local one or PostgreSQL")
