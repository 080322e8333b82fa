"""A file of an artefact made out of what was downloaded: pieces, whole or members of zip archives, end to end."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from models.sources.source import Cancellation, Piece, PlannedFile, Resource, WrongBytes

_BLOCK = 1 << 20
_BROKEN_ARCHIVE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def assemble(file: PlannedFile, path_of: Callable[[Resource], Path], target: Path, cancellation: Cancellation) -> str:
    """Write `file` to `target`, which is durable on return; returns its sha256.

    Raises WrongBytes where a piece or the whole is not what was planned.
    """
    whole = hashlib.sha256()
    size = 0
    with target.open("wb") as output:
        for piece in file.pieces:
            for block in _blocks(path_of(piece.resource), piece):
                cancellation.check()
                output.write(block)
                whole.update(block)
                size += len(block)
        output.flush()
        os.fsync(output.fileno())
    if size != file.size:
        raise WrongBytes(f"{file.name} has {size} bytes instead of {file.size}")
    expect(file, whole.hexdigest())
    return whole.hexdigest()


def expect(file: PlannedFile, digest: str) -> None:
    """Raise WrongBytes unless `digest` is the sha256 that `file` should have, if that is known."""
    if file.sha256 is not None and digest != file.sha256:
        raise WrongBytes(f"{file.name} has the hash {digest[:12]} instead of {file.sha256[:12]}")


def _blocks(path: Path, piece: Piece) -> Iterator[bytes]:
    if piece.member is None:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    else:
        yield from _member(path, piece, piece.member)


def _member(path: Path, piece: Piece, name: str) -> Iterator[bytes]:
    """The bytes of one member, found by its exact name and never longer than its size says."""
    box = path.name[:12]
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist() if info.filename == name]
            if len(found) != 1 or found[0].file_size != piece.size:
                raise WrongBytes(f"archive {box} has no member {name} of {piece.size} bytes")
            check = hashlib.sha256()
            left = piece.size
            with archive.open(found[0]) as member:
                while block := member.read(min(_BLOCK, left + 1)):
                    left -= len(block)
                    if left < 0:
                        raise WrongBytes(f"member {name} is longer than it says")
                    check.update(block)
                    yield block
    except _BROKEN_ARCHIVE as error:
        raise WrongBytes(f"archive {box} is damaged: {error}") from error
    if left or (piece.sha256 is not None and check.hexdigest() != piece.sha256):
        raise WrongBytes(f"member {name} has other bytes than the catalogue says")
