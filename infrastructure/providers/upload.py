"""A recording on its way to a provider, as the form that carries it: read piece by piece, never held whole."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

_PIECE = 256 << 10
_HEAD = 64

# Where a format's mark stands, and the ending by which servers that go by names know it.
_MARKS = (
    (0, b"RIFF", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (0, b"\x1aE\xdf\xa3", "webm"),
    (4, b"ftyp", "m4a"),
)


@dataclass(frozen=True, slots=True)
class Upload:
    """The file at `audio` under the name `file_field`, behind `fields`; each try may read it anew."""

    audio: Path
    file_field: str
    fields: tuple[tuple[str, str], ...] = ()
    _boundary: str = field(default_factory=lambda: f"ingle-{secrets.token_hex(16)}")

    @property
    def content_type(self) -> str:
        """The header that goes with the form."""
        return f"multipart/form-data; boundary={self._boundary}"

    async def open(self) -> tuple[int, AsyncIterator[bytes]]:
        """The length of the form and its pieces. Raises OSError if the file cannot be read."""
        size, head = await asyncio.to_thread(_look_at, self.audio)
        before, after = self._before(f"audio.{ending_of(head)}"), f"\r\n--{self._boundary}--\r\n".encode()
        return len(before) + size + len(after), self._pieces(before, size, after)

    def _before(self, filename: str) -> bytes:
        parts = [f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"' for name, _ in self.fields]
        written = [f"{part}\r\n\r\n{value}\r\n" for part, (_, value) in zip(parts, self.fields, strict=True)]
        named = f'Content-Disposition: form-data; name="{self.file_field}"; filename="{filename}"'
        written.append(f"--{self._boundary}\r\n{named}\r\nContent-Type: application/octet-stream\r\n\r\n")
        return "".join(written).encode()

    async def _pieces(self, before: bytes, size: int, after: bytes) -> AsyncIterator[bytes]:
        yield before
        with await asyncio.to_thread(self.audio.open, "rb") as file:
            while size > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE, size))):
                size -= len(piece)
                yield piece
        yield after


def _look_at(audio: Path) -> tuple[int, bytes]:
    with audio.open("rb") as file:
        return audio.stat().st_size, file.read(_HEAD)


def ending_of(head: bytes) -> str:
    """The usual ending of the name of a recording that begins with `head`; mp3, which has no mark, for all others."""
    return next((ending for at, mark, ending in _MARKS if head[at:].startswith(mark)), "mp3")
