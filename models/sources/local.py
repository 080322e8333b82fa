"""A local directory as a source: a disk, a share or a stick that somebody filled, for machines without a network.

Below the directory each model has a folder of its own, named as the model with `-` for `:` and `/`
(`qwen2.5-coder-0.5b`); in it lie the files under the catalogue's names. Sizes and hashes are checked as for any
other mirror, so only artefacts with pinned files come from here.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from models.catalog import CatalogFile, LocalMirror, Mirror
from models.sources.source import (
    Cancellation,
    DownloadPlan,
    MirrorFailed,
    Piece,
    PlannedFile,
    Resource,
    Transfer,
    WrongBytes,
)

_BLOCK = 1 << 20


class LocalSource:
    """Copies artefacts out of `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def label(self) -> str:
        """See Source."""
        return "local directory"

    def plan(self, mirror: Mirror, wanted: Sequence[CatalogFile], cancellation: Cancellation) -> DownloadPlan:
        """See Source."""
        if not isinstance(mirror, LocalMirror):
            raise TypeError("a local source plans local mirrors only")
        cancellation.check()
        folder = self._directory / mirror.folder
        files = tuple(_planned(folder / file.name, file) for file in wanted)
        if not files:
            raise MirrorFailed("only models with known hashes can come from a local directory")
        return DownloadPlan(files, {"source": "local"})

    def download(self, resource: Resource, target: Path, transfer: Transfer) -> None:
        """See Source. A copy starts anew each time: it is quicker than finding out where it stopped."""
        check = hashlib.sha256()
        done = 0
        with Path(resource.location).open("rb") as source, target.open("wb") as copy:
            while block := source.read(_BLOCK):
                transfer.cancellation.check()
                done += len(block)
                if done > resource.size:
                    break
                copy.write(block)
                check.update(block)
                transfer.received(done)
            copy.flush()
            os.fsync(copy.fileno())
        if check.hexdigest() != resource.sha256:
            target.unlink()
            raise WrongBytes("a file has other bytes than the catalogue says")


def _planned(path: Path, file: CatalogFile) -> PlannedFile:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MirrorFailed(f"{file.name} is not there") from error
    if size != file.size:
        raise MirrorFailed(f"{file.name} has {size} bytes instead of {file.size}")
    return PlannedFile(file.name, size, file.sha256, (Piece(Resource(str(path), size, file.sha256)),), "catalogue")
