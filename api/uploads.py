"""Files that clients send: streamed to a private directory, counted on the way, gone when the request is over."""

import asyncio
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.types import Receive

from api.errors import ClientLeft, InvalidFields, PayloadTooLarge, Problem, UnsupportedMediaType
from api.multipart import FormReader
from domain.errors import InsufficientStorage

# The client's name for a file never reaches the disk.
FILE_NAME = "input.bin"
WRITE_BYTES = 1 << 20
FRAME_BYTES = 1 << 20
"""What a form may hold beside the file: field names, boundaries, options."""


class UploadFolder:
    """Where uploads lie, each in a directory of its own that only this user can read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: BinaryIO | None = None

    def open(self) -> None:
        """Make the folder and remove what a killed process left in it, unless another one is using it now."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (self._root / ".lock").open("wb")
        with suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in self._root.iterdir():
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
        # Everyone who uses the folder shares the lock, so that nobody who starts later gets it alone.
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def new_path(self) -> Path:
        """Where there is no file yet, in a directory of its own. Blocking, for a moment."""
        directory = self._root / uuid.uuid4().hex
        directory.mkdir(mode=0o700, parents=True)
        return directory / FILE_NAME

    @asynccontextmanager
    async def lent_path(self) -> AsyncGenerator[Path, None]:
        """A `new_path`; whatever is written there goes when the block ends."""
        path = await asyncio.to_thread(self.new_path)
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path.parent)

    def new_file(self) -> "UploadedFile":
        """An empty file in a directory of its own. Blocking, for a moment."""
        path = self.new_path()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return UploadedFile(path, os.fdopen(descriptor, "wb", buffering=0))


class UploadedFile:
    """A file that grows while it comes in."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = 0
        self._file = file
        self._waiting = bytearray()

    def add(self, data: bytes) -> None:
        """Take more bytes; they are in memory until `flush`."""
        self._waiting += data
        self.size += len(data)

    @property
    def waiting(self) -> int:
        """Bytes that are not on disk yet."""
        return len(self._waiting)

    def flush(self) -> None:
        """Write what waits. Blocking. Raises InsufficientStorage if the disk is full."""
        data, self._waiting = self._waiting, bytearray()
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InsufficientStorage("there is no room on the disk for the upload") from None
            raise

    def remove(self) -> None:
        """Close and delete it. Blocking."""
        self._file.close()
        shutil.rmtree(self.path.parent)


MAX_FILE_NAME = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """A file, and the client's name for it, which is for showing only."""

    path: Path
    size: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """What a request brought: files, and the text fields that came with them in the form."""

    files: Sequence[Upload]
    fields: Sequence[tuple[str, str]] = ()


@asynccontextmanager
async def received_files(
    request: Request,
    folder: UploadFolder,
    *,
    limit: int,
    names: Sequence[str],
    max_files: int = 1,
    media: Callable[[str], bool] | None = None,
) -> AsyncGenerator[Received, None]:
    """The files of a multipart form under `names`, or the bare body if `media` takes its type.

    They exist on disk while the block runs. Raises UnsupportedMediaType, PayloadTooLarge (more than `limit` bytes
    in all), InvalidBody (broken multipart), InvalidFields (no file, more than `max_files`, too many parts),
    ClientLeft.
    """
    content_type = request.headers.get("content-type", "")
    essence = content_type.partition(";")[0].strip().lower()
    is_form = essence == "multipart/form-data"
    if not is_form and (media is None or not media(essence)):
        bare = "" if media is None else ", or the file itself as audio/*, video/* or octet-stream"
        raise UnsupportedMediaType(f"send multipart/form-data{bare}")
    incoming = _Incoming(folder)
    try:
        fields: Sequence[tuple[str, str]] = ()
        if is_form:
            form = FormReader(content_type, names, incoming.open, max_files=max_files)
            await _receive(request.receive, form.feed, incoming, limit)
            form.finish()
            if not form.files:
                raise InvalidFields([Problem((names[0],), f"the form has no file under {' or '.join(names)}")])
            fields = tuple(form.fields)
        else:
            await _receive(request.receive, incoming.open(""), incoming, limit)
        await asyncio.to_thread(incoming.flush)
        yield Received(incoming.uploads(), fields)
    finally:
        await asyncio.to_thread(incoming.remove)


class _Incoming:
    """The files of a request while they come in."""

    def __init__(self, folder: UploadFolder) -> None:
        self._folder = folder
        self._files: list[tuple[UploadedFile, str]] = []

    def open(self, name: str) -> Callable[[bytes], None]:
        """One more file; what takes its content."""
        file = self._folder.new_file()
        self._files.append((file, name))
        return file.add

    @property
    def size(self) -> int:
        return sum(file.size for file, _ in self._files)

    @property
    def waiting(self) -> int:
        return sum(file.waiting for file, _ in self._files)

    def flush(self) -> None:
        for file, _ in self._files:
            file.flush()

    def remove(self) -> None:
        for file, _ in self._files:
            file.remove()

    def uploads(self) -> list[Upload]:
        return [Upload(file.path, file.size, shown_name(name)) for file, name in self._files]


def shown_name(name: str) -> str:
    """The client's name for a file, fit to be shown and for nothing else."""
    return "".join(char for char in name if char.isprintable())[:MAX_FILE_NAME]


def claimed_bytes(request: Request) -> int:
    """How large the client says that the body is; 0 where it says nothing that can be read."""
    claimed = request.headers.get("content-length", "")
    return int(claimed) if claimed.isascii() and claimed.isdecimal() and len(claimed) < 20 else 0


async def _receive(receive: Receive, take: Callable[[bytes], None], incoming: _Incoming, limit: int) -> None:
    """Hand the body over to `take`, and what that adds to the files on to the disk."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft()
        take(message.get("body", b""))
        if incoming.size > limit:
            raise PayloadTooLarge(limit)
        if incoming.waiting >= WRITE_BYTES:
            await asyncio.to_thread(incoming.flush)
        if not message.get("more_body", False):
            return
