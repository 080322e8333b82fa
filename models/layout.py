"""Where things lie below the models folder.

Everything of ours is below one dot-directory; all else in the models folder belongs to the person who put it there.

    .ingle/manifests/<key>.json      one for each installed name; its presence means that the artefact is complete
    .ingle/artefacts/<digest>/       the files of an artefact under their own names
    .ingle/staging/<key>/            what pulls have downloaded so far; continued by the next pull of that name
    .ingle/converted/<digest>-<x>/   copies that engines made for themselves
    .ingle/verified/<digest>.json    which files were found intact, by size, modification time and inode
    .ingle/locks/                    locks of the operating system, held by processes and never deleted
"""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from domain.errors import InsufficientStorage, InvalidRequest, ModelsFolderUnusable
from domain.model import is_valid_name

DOT_DIRECTORY = ".ingle"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MAX_KEY = 200


def key_of(name: str) -> str:
    """The file name that stands for a model's name, different for different names; case does not matter.

    Raises InvalidRequest for a name that must not become a path.
    """
    if not is_valid_name(name):
        raise InvalidRequest("invalid model name", field="model")
    key = name.lower().replace("/", "+").replace(":", "@")
    if len(key) > _MAX_KEY:
        raise InvalidRequest(f"a model's name may have at most {_MAX_KEY} characters", field="model")
    return key


class Layout:
    """The paths below one models folder. Makes no directory until it is needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own = root / DOT_DIRECTORY
        self.manifests = self._own / "manifests"
        self.artefacts = self._own / "artefacts"
        self.staging = self._own / "staging"
        self.converted = self._own / "converted"
        self.verified = self._own / "verified"
        self._locks = self._own / "locks"

    def free_bytes(self) -> int:
        """Free space of the disk that the models folder is on, or will be on."""
        folder = self.root.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def is_in_use(self) -> bool:
        """Whether anything of ours lies here."""
        return self._own.is_dir()

    @contextmanager
    def lock(self, name: str, wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock `name` against every other thread and process.

        While another holds it, `wait` is called again and again (it sleeps, and may raise); without `wait` the
        call blocks.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._locks / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while not _take(descriptor, blocking=wait is None):
                if wait is not None:
                    wait()
            yield
        finally:
            os.close(descriptor)

    def publishing(self) -> AbstractContextManager[None]:
        """The short lock under which manifests and artefacts appear and go. No model's key is its name."""
        return self.lock(".store")


@contextmanager
def changes() -> Iterator[None]:
    """Says in the program's own terms what the disk says: InsufficientStorage, or ModelsFolderUnusable."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise InsufficientStorage("the disk is full: nothing was changed") from error
        raise ModelsFolderUnusable(f"the models folder cannot be changed: {error.strerror}") from error


def _take(descriptor: int, *, blocking: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def sync_directory(path: Path) -> None:
    """Make the names in `path` survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that a reader sees all of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
