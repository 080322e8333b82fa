"""Is a stored file what it was? A file is hashed once; then its size, modification time and inode vouch for it."""

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

from domain.errors import ModelLoadFailed
from models.installed import InstalledModel, StoredFile
from models.layout import Layout, write_atomically

_MAX_STAMPS = 1 << 20

Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp:
    """(size in bytes, modification time in ns, inode) of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


class Verifier:
    """Checks stored files against their hashes and remembers, across starts, what was found intact."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Stamp]] = {}

    def verify(self, model: InstalledModel) -> None:
        """Raise ModelLoadFailed, naming the file and what to do, unless every file with a hash is intact."""
        for file, fault in self._examine(model.digest, model.files):
            raise ModelLoadFailed(f"{file.name} {fault}; run `ingle models pull {model.spec.id}` again", file=file.name)

    def damaged(self, model: InstalledModel) -> Sequence[StoredFile]:
        """The files that are missing or not what they were."""
        return [file for file, _ in self._examine(model.digest, model.files)]

    def vouch(self, digest: str, files: Sequence[StoredFile]) -> None:
        """Remember files that were checked a moment ago."""
        stamps = self._stamps(digest)
        stamps.update({file.name: stamp_of(file.path) for file in files})
        self._keep(digest, stamps)

    def forget(self, digest: str) -> None:
        """Drop what is remembered of an artefact that goes."""
        with self._lock:
            self._known.pop(digest, None)
        self._path(digest).unlink(missing_ok=True)

    def _examine(self, digest: str, files: Sequence[StoredFile]) -> "list[tuple[StoredFile, str]]":
        stamps = self._stamps(digest)
        faults = []
        new = False
        for file in files:
            if file.sha256 is None:
                continue
            try:
                stamp = stamp_of(file.path)
            except FileNotFoundError:
                faults.append((file, "is missing"))
                continue
            if stamp[0] != file.size:
                faults.append((file, f"is damaged: it has {stamp[0]} bytes instead of {file.size}"))
            elif stamps.get(file.name) != stamp:
                if hash_of(file.path) == file.sha256:
                    stamps[file.name] = stamp
                    new = True
                else:
                    faults.append((file, "is damaged: its bytes do not have the hash they had when it was pulled"))
        if new:
            self._keep(digest, stamps)
        return faults

    def _stamps(self, digest: str) -> dict[str, Stamp]:
        with self._lock:
            if digest in self._known:
                return dict(self._known[digest])
        try:
            with self._path(digest).open("rb") as file:
                document = json.loads(file.read(_MAX_STAMPS))
            return {str(name): (int(size), int(when), int(inode)) for name, (size, when, inode) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # nothing remembered: the files are hashed again, which is always right

    def _keep(self, digest: str, stamps: dict[str, Stamp]) -> None:
        with self._lock:
            self._known[digest] = stamps
        try:
            write_atomically(self._path(digest), json.dumps(stamps).encode())
        except OSError:
            return  # a models folder that cannot be written: remembered until this process ends

    def _path(self, digest: str) -> Path:
        return self._layout.verified / f"{digest}.json"


def hash_of(path: Path) -> str:
    """The sha256 of a file, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
