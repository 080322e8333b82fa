"""What a driver's errors mean to the rest of the program. No text of a driver, and so no address, goes along."""

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from domain.errors import DatabaseBusy, DatabaseUnavailable, IngleError, StorageFull

_BUSY = {"55P03", "57014", "40001", "40P01"}
_FULL = {"53100", "25006"}
_SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}


def meaning_of(error: Exception) -> IngleError | None:
    """The failure to tell, None where the error is a mistake of ours."""
    if isinstance(error, PoolTimeout):
        return DatabaseBusy()
    if isinstance(error, TimeoutError | ConnectionError | OSError):
        return DatabaseUnavailable()
    if not isinstance(error, DBAPIError):
        return None
    state = _state(error)
    if state in _BUSY:
        return DatabaseBusy()
    if state in _FULL:
        return StorageFull()
    original = error.orig
    if isinstance(original, sqlite3.Error):
        # The lower byte is the primary code, the upper ones its kind.
        primary = getattr(original, "sqlite_errorcode", 0) & 0xFF
        if primary in _SQLITE_BUSY:
            return DatabaseBusy()
        if primary in _SQLITE_FULL:
            return StorageFull()
        return DatabaseUnavailable() if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB) else None
    lost = error.connection_invalidated or (state or "")[:2] in ("08", "53", "57", "28", "3D")
    return DatabaseUnavailable() if lost or isinstance(error, InterfaceError | OperationalError) else None


def is_passing(error: Exception) -> bool:
    """Whether the same transaction may succeed at once: it lost a race, or its connection."""
    if isinstance(error, IntegrityError):
        return _state(error) == "23505"
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _state(error) in ("40001", "40P01"))


def _state(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None
