"""The files of an artefact on their way: downloaded, assembled and checked out of everybody's sight.

What lies in a staging folder is kept until its model is published, so a pull that was interrupted, even by a loss
of power, continues. Nothing in it is trusted: what an earlier run left is hashed again.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from domain.errors import InsufficientStorage
from domain.library import PullProgress, PullStage
from models.assembly import assemble, expect
from models.sources.source import Cancellation, DownloadPlan, PlannedFile, Resource, Source, Transfer, WrongBytes
from models.verification import hash_of

Report = Callable[[PullProgress], None]

_REPORT_INTERVAL = 0.1
_ROOM_FACTOR = 1.1


class Staging:
    """One model's folder of files on their way. `files` is where they stand once they are whole."""

    def __init__(self, folder: Path, report: Report, cancellation: Cancellation) -> None:
        self.files = folder / "files"
        self._folder = folder
        self._resources = folder / "resources"
        self._building = folder / "building"
        self._report = report
        self._cancellation = cancellation

    def fill(self, plan: DownloadPlan, source: Source, free_bytes: Callable[[], int]) -> Mapping[str, str]:
        """Bring every file of `plan` into `files`; returns name → sha256, computed from the bytes here.

        Raises InsufficientStorage before a byte is written where `free_bytes` is too little, MirrorFailed,
        RequestCancelled, OSError.
        """
        hashes = {file.name: file.sha256 for file in plan.files if file.sha256 is not None and self._has(file)}
        missing = [file for file in plan.files if file.name not in hashes]
        self._check_room(missing, free_bytes)
        for folder in (self._resources, self.files):
            folder.mkdir(parents=True, exist_ok=True)
        self._drop_others(plan)
        brought: set[str] = set()
        for file in plan.files:
            needed = {} if file.name in hashes else {piece.resource.key: piece.resource for piece in file.pieces}
            self._download(file, [needed[key] for key in needed if key not in brought], source)
            brought.update(needed)
        users = Counter(key for file in missing for key in {piece.resource.key for piece in file.pieces})
        for file in missing:
            self._report(PullProgress(PullStage.VERIFYING, file.name, file.size, file.size, file.sha256 or ""))
            hashes[file.name] = self._build(file, users)
        return hashes

    def clear(self) -> None:
        """Forget everything here."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _has(self, file: PlannedFile) -> bool:
        path = self.files / file.name
        self._cancellation.check()
        return path.is_file() and path.stat().st_size == file.size and hash_of(path) == file.sha256

    def _check_room(self, missing: Sequence[PlannedFile], free_bytes: Callable[[], int]) -> None:
        resources = {piece.resource.key: piece.resource for file in missing for piece in file.pieces}
        boxed = sum(file.size for file in missing if any(piece.member for piece in file.pieces))
        to_come = sum(max(0, resource.size - _size(self._path(resource))) for resource in resources.values())
        needed, available = int((boxed + to_come) * _ROOM_FACTOR), max(0, free_bytes())
        if needed > available:
            raise InsufficientStorage(
                f"the download needs {needed / 1e9:.2f} GB of disk and {available / 1e9:.2f} GB may be used: "
                "make room, or remove models with `ingle models rm NAME`",
                needed_bytes=needed,
                available_bytes=available,
            )

    def _drop_others(self, plan: DownloadPlan) -> None:
        """Remove what an earlier pull of other files left: all that lies in `files` will be published."""
        names = {file.name for file in plan.files}
        for path in sorted(self.files.rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(self.files).as_posix() not in names:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _download(self, file: PlannedFile, resources: Sequence[Resource], source: Source) -> None:
        progress = _FileProgress(file, sum(resource.size for resource in resources), self._report)
        for resource in resources:
            source.download(resource, self._path(resource), Transfer(self._cancellation, progress.received))
            progress.whole(resource)
        progress.finish()

    def _build(self, file: PlannedFile, users: Counter[str]) -> str:
        """Put `file` in its place out of its resources; those that no other file needs go."""
        resources = {piece.resource.key: piece.resource for piece in file.pieces}
        only = file.pieces[0].resource if len(file.pieces) == 1 and file.pieces[0].member is None else None
        target = self.files / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        users.subtract(list(resources))
        try:
            if only is not None and users[only.key] == 0:
                digest = only.sha256 or hash_of(self._path(only))
                expect(file, digest)
                self._path(only).replace(target)
                return digest
            digest = assemble(file, self._path, self._building, self._cancellation)
        except WrongBytes:
            for resource in resources.values():
                self._path(resource).unlink(missing_ok=True)
            raise
        self._building.replace(target)
        for resource in resources.values():
            if users[resource.key] == 0:
                self._path(resource).unlink(missing_ok=True)
        return digest

    def _path(self, resource: Resource) -> Path:
        return self._resources / resource.key


class _FileProgress:
    """Says how much of one file is here: never less than before, and at most ten times a second."""

    def __init__(self, file: PlannedFile, expected: int, report: Report) -> None:
        self._file = file
        self._expected = max(1, expected)
        self._before = 0
        self._completed = -1
        self._said_at = 0.0
        self._report = report

    def received(self, count: int) -> None:
        """`count` bytes of the present resource are here."""
        if time.monotonic() - self._said_at >= _REPORT_INTERVAL:
            self._say(self._file.size * (self._before + count) // self._expected)

    def whole(self, resource: Resource) -> None:
        """All of `resource` is here."""
        self._before += resource.size

    def finish(self) -> None:
        """All that the file is made of is here."""
        self._say(self._file.size)

    def _say(self, completed: int) -> None:
        if completed <= self._completed:
            return
        self._completed, self._said_at = completed, time.monotonic()
        step = PullProgress(PullStage.FILES, self._file.name, completed, self._file.size, self._file.sha256 or "")
        self._report(step)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
