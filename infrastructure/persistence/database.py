"""What both databases offer, and how their SQL differs.

An operation is a plain function of a SQLAlchemy connection that does a whole transaction's work. It raises an
IngleError only before its first write, so that operations may share a transaction: a refusal undoes nobody's work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import Connection, TextClause, text

T = TypeVar("T")
Operation = Callable[[Connection], T]


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a dialect writes what our SQL says as `now_ms()`, `LEAST`, `GREATEST`, `random_hex()` and `SKIP_LOCKED`."""

    name: str
    now_ms: str
    least: str
    greatest: str
    random_hex: str
    for_update: str
    skip_locked: str

    def sql(self, statement: str) -> TextClause:
        """`statement` in this dialect. Values are bound, never written into it."""
        for ours, theirs in (
            ("now_ms()", self.now_ms),
            ("LEAST(", f"{self.least}("),
            ("GREATEST(", f"{self.greatest}("),
            ("random_hex()", self.random_hex),
            ("SKIP_LOCKED", self.skip_locked),
            ("FOR_UPDATE", self.for_update),
        ):
            statement = statement.replace(ours, theirs)
        return text(statement)


# Under the sub-select it is one value of the plan; bare, the volatile call would keep the index from being used.
POSTGRES = Spelling(
    name="postgresql",
    now_ms="(SELECT CAST(extract(epoch FROM clock_timestamp())*1000 AS bigint))",
    least="LEAST",
    greatest="GREATEST",
    random_hex="replace(CAST(gen_random_uuid() AS text), '-', '')",
    for_update="FOR UPDATE",
    skip_locked="FOR UPDATE SKIP LOCKED",
)
SQLITE = Spelling(
    name="sqlite",
    now_ms="CAST(ROUND((julianday('now')-2440587.5)*86400000) AS INTEGER)",
    least="MIN",
    greatest="MAX",
    random_hex="lower(hex(randomblob(16)))",
    for_update="",
    skip_locked="",
)


class Database(Protocol):
    """A database that is open.

    * `write` runs an operation in a transaction and returns after the commit; with `repeatable` it is run again where
      it lost a race or its connection. `statement` does the same for an operation that is one statement.
    * `read` runs an operation on one snapshot (SQLite) or statement by statement (PostgreSQL).
    * All raise DatabaseUnavailable, DatabaseBusy, StorageFull, and whatever IngleError the operation raises.
    """

    @property
    def spelling(self) -> Spelling:
        """How its SQL is written."""
        ...

    refused_at: float | None
    """When (`time.monotonic`) a write last found the disk full or read-only; None once somebody found it otherwise."""

    async def read(self, operation: Operation[T]) -> T:
        """What `operation` finds."""
        ...

    async def write(self, operation: Operation[T], *, repeatable: bool = False) -> T:
        """What `operation` gives, once it is committed."""
        ...

    async def statement(self, operation: Operation[T]) -> T:
        """What an operation of one statement gives."""
        ...

    async def close(self) -> None:
        """Finish what was begun, let go of every connection."""
        ...
