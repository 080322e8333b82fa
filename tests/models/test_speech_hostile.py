"""Uploads that lie about themselves: they take bounded time, memory and disk, whatever their headers claim."""

import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from domain.errors import AudioRefused, AudioTooLong, IngleError
from models.speech.decoder import AudioDecoder, DecodeLimits
from tests.models.sound import sound_file, tone, wav

LONGEST = 300.0
MIB = 1 << 20


@pytest.fixture
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(DecodeLimits(max_seconds=LONGEST, timeout_seconds=20.0), processes=1)
    yield decoder
    decoder.close()


def flac(*, rate: int | None = None, channels: int | None = None, samples: int | None = None) -> bytes:
    """A second of sound whose first block claims something else."""
    data = bytearray(sound_file("flac", "flac", [tone(1.0)]))
    claims = int.from_bytes(data[18:26], "big")
    for value, bits, shift in ((rate, 20, 44), (None if channels is None else channels - 1, 3, 41), (samples, 36, 0)):
        if value is not None:
            claims = claims & ~(((1 << bits) - 1) << shift) | (value << shift)
    data[18:26] = claims.to_bytes(8, "big")
    return bytes(data)


def believed(data: bytes) -> bytes:
    """The same with frames that leave their rate to the first block."""
    frames = bytearray(data)
    at = data.find(b"\xff\xf8", 42)
    while at >= 0:
        frames[at + 2] &= 0xF0
        length = 5 + {6: 1, 7: 2}.get(frames[at + 2] >> 4, 0)
        frames[at + length] = crc8(frames[at : at + length])
        at = data.find(b"\xff\xf8", at + 100)
    return bytes(frames)


def crc8(data: bytearray) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


def mp4(seconds: int) -> bytes:
    """A second of sound in a container that claims `seconds`."""
    data = bytearray(sound_file("mp4", "aac", [tone(1.0)]))
    for box, at in ((b"mvhd", 12), (b"mdhd", 12)):
        where = data.index(box) + 4 + at
        scale = int.from_bytes(data[where : where + 4], "big")
        data[where + 4 : where + 8] = min(seconds * scale, 0xFFFF_FFFE).to_bytes(4, "big")
    return bytes(data)


def silent_mp3(seconds: float) -> bytes:
    """36 bytes for each 36 ms of nothing, without a word about the length."""
    frame = bytes((0xFF, 0xF3, 0x18, 0xC4)) + bytes(32)
    return frame * int(seconds / 0.036)


def with_cover(mp3: bytes) -> bytes:
    """With a picture of 60,000 by 60,000 points in front."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    frame = b"\x00image/png\x00\x03\x00" + png
    tag = b"APIC" + len(frame).to_bytes(4, "big") + b"\x00\x00" + frame
    size = bytes((len(tag) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + tag + mp3


REFUSED = {
    "flac-655350-hz": (believed(flac(rate=655_350)), AudioRefused),
    "flac-of-two-weeks": (flac(samples=(1 << 36) - 1), AudioTooLong),
    "wav-of-1-hz": (wav(1.0, rate=1), AudioTooLong),
    "wav-of-0-hz": (wav(1.0, rate=0), AudioRefused),
    "an-hour-of-nothing": (silent_mp3(3600.0), AudioTooLong),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_lie_costs_little_time_memory_and_disk(decoder: AudioDecoder, tmp_path: Path, name: str) -> None:
    data, kind = REFUSED[name]
    assert len(data) < 4 * MIB
    (tmp_path / "input.bin").write_bytes(data)
    own = psutil.Process(os.getpid())
    others = own.children()  # servers of other tests
    held, began = own.memory_info().rss, time.monotonic()
    with pytest.raises(IngleError) as refusal:
        await decoder.decode(tmp_path / "input.bin")
    assert type(refusal.value) is kind
    assert time.monotonic() - began < 10
    assert own.memory_info().rss - held < 50 * MIB
    # One that decoded much has given way, and is gone with its memory.
    for process in [child for child in own.children() if child not in others]:
        assert process.memory_info().rss < 400 * MIB
    (tmp_path / "good").write_bytes(wav(0.5))
    assert (await decoder.decode(tmp_path / "good")).seconds == 0.5


async def test_a_huge_picture_beside_the_sound_is_not_looked_at(decoder: AudioDecoder, tmp_path: Path) -> None:
    (tmp_path / "input.bin").write_bytes(with_cover(sound_file("mp3", "libmp3lame", [tone(2.0)])))
    recording = await decoder.decode(tmp_path / "input.bin")
    assert recording.seconds == pytest.approx(2.0, abs=0.1)
    recording.close()


@pytest.mark.parametrize(
    "data",
    [flac(samples=10), flac(rate=655_350, channels=8), flac(rate=0), mp4(86_000)],
    ids=["too-few-samples", "655350-hz-8-channels", "0-hz", "a-day"],
)
async def test_a_claim_that_the_sound_itself_belies_changes_nothing(
    decoder: AudioDecoder, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "input.bin").write_bytes(data)
    assert (await decoder.decode(tmp_path / "input.bin")).seconds == pytest.approx(1.0, abs=0.1)
