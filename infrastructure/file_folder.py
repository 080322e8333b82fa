"""A folder of files that are kept, each under a name that we made, for this user's eyes only."""

import errno
import os
import shutil
import stat
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from domain.errors import InsufficientStorage, StoredFileMissing

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GIB = 1 << 30


class PrivateFolder:
    """A FileFolder at `root`, which is made when something is kept. `min_free_bytes` of its disk stay free."""

    def __init__(self, root: Path, *, min_free_bytes: int = 0) -> None:
        self._root = root
        self._min_free = min_free_bytes

    def check_room(self, size: int) -> None:
        """Raise InsufficientStorage where `size` bytes more would leave too little free."""
        self._make()
        free = shutil.disk_usage(self._root).free
        if free - size < self._min_free:
            raise InsufficientStorage(
                f"there is no room for the upload: {free / _GIB:.1f} GiB are free, and "
                f"{self._min_free / _GIB:.1f} GiB stay free"
            )

    def keep(self, content: Path, file_id: str) -> int:
        """Take over the file `content`; its size."""
        self._make()
        target = self._root / file_id
        try:
            try:
                content.rename(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(content, target)
            _sync(target)
            _sync(self._root)
            return target.stat().st_size
        except OSError as error:
            target.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise InsufficientStorage("there is no room on the disk for the upload") from None
            raise

    def path_of(self, file_id: str) -> Path:
        """Where it lies, which is a plain file."""
        path = self._root / file_id
        try:
            found = path.lstat()
        except OSError:
            raise StoredFileMissing from None
        if not stat.S_ISREG(found.st_mode):
            raise StoredFileMissing
        return path

    def remove(self, file_ids: Collection[str]) -> None:
        """Remove those that are here."""
        for file_id in file_ids:
            (self._root / file_id).unlink(missing_ok=True)

    def untouched(self, seconds: float) -> Sequence[str]:
        """The ids of all that nobody has written to for so long."""
        until = time.time() - seconds
        try:
            with os.scandir(self._root) as entries:
                return [one.name for one in entries if one.stat(follow_symlinks=False).st_mtime <= until]
        except FileNotFoundError:
            return []

    def _make(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)


def _copy(content: Path, target: Path) -> None:
    """Copy to another disk."""
    with content.open("rb") as source, os.fdopen(os.open(target, _NEW, 0o600), "wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
