"""Keys in a file that the operator may change while the server runs."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from domain.key_ring import BadKey, KeyRing, parse_file

MAX_BYTES = 1 << 20
_log = structlog.get_logger("ingle.keys")


class KeptKeys:
    """The keys that are given and those of a file. Raises BadKey if the file cannot be used.

    A file that cannot be used later on changes nothing: the keys stay as they were, and the log says why.
    """

    def __init__(self, given: KeyRing, path: Path | None = None) -> None:
        self._given = given
        self._path = path
        self._seen = self._signature()
        self.ring = self._read()

    def refresh(self, *, force: bool = False) -> None:
        """Read the file again if it has changed, or in any case. Blocks."""
        seen = self._signature()
        if self._path is None or (seen == self._seen and not force):
            return
        self._seen = seen
        try:
            self.ring = self._read()
        except BadKey as error:
            _log.error("the keys stay as they were", reason=str(error))
        else:
            _log.info("keys were read again", keys=len(self.ring.keys))

    def _read(self) -> KeyRing:
        if self._path is None:
            return self._given
        return KeyRing((*self._given.keys, *read_keys(self._path).keys))

    def _signature(self) -> tuple[int, ...] | None:
        """What changes whenever the file is written, replaced or given to somebody else."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_keys(path: Path) -> KeyRing:
    """The keys in a file. Raises BadKey, also where others may write it."""
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadKey(f"the keys in {path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise BadKey(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return parse_file(content.decode())
    except UnicodeDecodeError:
        raise BadKey(f"{path} is not text in UTF-8") from None
    except BadKey as error:
        raise BadKey(f"{path}: {error}") from None


def _check_owner(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BadKey(f"{path} is not a file")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadKey(f"others may write {path}, and so give themselves keys: chmod go-w {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise BadKey(f"{path} belongs to somebody else, who may write it: chown it to who runs the server")


def change_keys(path: Path, change: Callable[[Sequence[str]], Sequence[str]]) -> None:
    """Write the file anew, all at once, with its lines changed; one that is new is for its owner only.

    Raises BadKey rather than leaving a file that cannot be used, and OSError.
    """
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        # Two that change it at once would each lose what the other did.
        fcntl.flock(directory, fcntl.LOCK_EX)
        lines: Sequence[str] = []
        mode = 0o600
        if path.exists():
            read_keys(path)
            lines = path.read_text(encoding="utf-8").splitlines()
            mode = stat.S_IMODE(path.stat().st_mode)
        text = "".join(f"{line}\n" for line in change(lines))
        parse_file(text)
        _replace(path.resolve(), text, mode)
        os.fsync(directory)
    finally:
        os.close(directory)


def _replace(path: Path, text: str, mode: int) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".keys-", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if path.exists():
                # Root changes the file of the server's user.
                os.fchown(file.fileno(), path.stat().st_uid, path.stat().st_gid)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
