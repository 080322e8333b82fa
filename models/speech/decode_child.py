"""The process that decodes untrusted audio: an open file comes in, 16 kHz mono 16-bit samples go out.

It is started as a script of its own (standard library and PyAV only), gives up network, memory and open files
before it sees a byte of audio, and then answers one request after another on standard input, which is a socket.
It never learns the name of an upload: it receives two open files, the audio and the spool for the samples.
"""

import ctypes
import errno
import io
import json
import math
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.subtitles.stream  # PyAV imports it late, when no file can be opened any more
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

SAMPLE_RATE = 16_000
MIN_SECONDS = 0.02
MAX_SOURCE_RATE = 192_000
MAX_CHANNELS = 8
MAX_BAD_PACKETS_IN_A_ROW = 50
HEAD_BYTES = 1 << 16
WRITE_BYTES = 1 << 18
UNKNOWN_RIFF_SIZE = 0x7FFF_0000
"""Programs that write WAV into a pipe put zero or a number about here or above for the size they cannot know."""
TAKES = {b"m": "mix", b"l": "left", b"r": "right", b"s": "split"}
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000


class Refused(Exception):
    """The audio is not accepted; `code` is that of a failure in domain/errors.py, or `no_space`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What one upload may cost. `formats` are FFmpeg's names of demuxers, separated by commas."""

    formats: str
    max_seconds: float
    max_raw_bytes: int
    cpu_seconds: int
    memory_bytes: int


Tell = Callable[..., None]


class _Samples:
    """Frames of any rate and layout in, samples on the spool out; counts what came in."""

    def __init__(self, spool: io.RawIOBase, limits: Limits, take: str, tell: Tell) -> None:
        self.seconds = 0.0
        self.written = 0
        self._raw_bytes = 0
        self._spool = spool
        self._unwritten = bytearray()
        self._limits = limits
        self._take = take
        self._tell = tell
        self._resampler: AudioResampler | None = None
        self._source: tuple[str, str, int] | None = None

    def add(self, frame: AudioFrame) -> None:
        """Append a frame. Raises Refused beyond a limit."""
        channels = frame.layout.nb_channels
        _check_shape(frame.sample_rate, channels)
        self.seconds += frame.samples / frame.sample_rate
        self._raw_bytes += frame.samples * channels * frame.format.bytes
        if self.seconds > self._limits.max_seconds or self._raw_bytes > self._limits.max_raw_bytes:
            raise _too_long(self._limits)
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:
            self.finish()
            layout = "mono" if self._take == "mix" or (channels == 1 and self._take != "split") else "stereo"
            self._resampler, self._source = AudioResampler(format="s16", layout=layout, rate=SAMPLE_RATE), source
        assert self._resampler is not None
        frame.pts = None
        self._write(self._resampler.resample(frame))

    def finish(self) -> None:
        """Write what the resampler and the buffer still hold back."""
        if self._resampler is not None:
            self._write(self._resampler.resample(None))
            self._resampler = self._source = None
        self._drain()

    def _write(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            channels = frame.layout.nb_channels
            # A plane may be longer than its samples.
            samples = memoryview(frame.planes[0])[: frame.samples * 2 * channels].cast("B").cast("h")
            if channels == 2 and self._take != "split":
                samples = samples[self._take == "right" :: 2]
            self._unwritten += samples.tobytes()
            self.written += frame.samples
        if len(self._unwritten) >= WRITE_BYTES:
            self._drain()

    def _drain(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: self._spool.write(self._unwritten)]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Refused("no_space", "there is not enough free disk space to decode the audio") from None
            raise
        self._tell(self.written)


def decode(
    audio: BinaryIO, spool: io.RawIOBase, limits: Limits, take: str = "mix", tell: Tell | None = None
) -> dict[str, Any]:
    """Write the first sound track of `audio` to `spool` as 16 kHz 16-bit samples, of one channel.

    `take` is `mix`, `left`, `right`, or `split` for two channels, sample by sample. `tell` hears how many samples
    (of a channel) are on the spool and how many seconds the header promises, if it does. The answer is
    `{"samples": their number, "caveats": codes}`. Raises Refused. Other files and addresses that the audio may
    name are not opened: the whitelists forbid it to FFmpeg.
    """
    head = audio.read(HEAD_BYTES)
    size = audio.seek(0, io.SEEK_END)
    audio.seek(0)
    if size == 0:
        raise Refused("empty_audio", "the upload is empty")
    try:
        container = av.open(
            audio,
            mode="r",
            metadata_errors="ignore",
            options={"format_whitelist": limits.formats, "protocol_whitelist": ""},
            io_open=_open_nothing,
        )
    except Exception as error:  # PyAV raises nearly anything for bytes that are not audio
        raise _not_audio() from error
    with container:
        stream = _sound_track(container)
        promised = _promised_seconds(container, stream, head)
        if promised is not None and promised > limits.max_seconds:
            raise _too_long(limits)
        if take == "split" and stream.codec_context.layout.nb_channels == 1:
            raise Refused("one_channel", "the audio has one channel: there is nothing to split")
        samples = _Samples(spool, limits, take, lambda written: None if tell is None else tell(written, promised))
        damage = _decode_packets(container, stream, samples)
    if samples.written < MIN_SECONDS * SAMPLE_RATE:
        raise _not_audio() if damage.packets else Refused("empty_audio", "the upload holds no sound")
    truncated = _is_cut_riff(head, size) if head[:4] == b"RIFF" else damage.last_packet
    if promised is not None and promised - samples.seconds > max(0.25, 0.01 * promised):
        truncated = True
    caveats = ["audio_damaged"] if damage.inside else ["audio_truncated"] if truncated or damage.packets else []
    return {"samples": samples.written, "caveats": caveats}


@dataclass(slots=True)
class _Damage:
    """Packets that could not be decoded: how many, whether good ones followed, whether the last one is cut."""

    packets: int = 0
    inside: bool = False
    last_packet: bool = False


def _decode_packets(container: InputContainer, stream: AudioStream, samples: _Samples) -> _Damage:
    damage = _Damage()
    bad_in_a_row = 0
    packets = container.demux(stream)
    while bad_in_a_row < MAX_BAD_PACKETS_IN_A_ROW:
        try:
            packet = next(packets, None)
        except Exception:  # the container itself turned bad: what was decoded stands
            damage.packets += 1
            break
        if packet is None:
            break
        if packet.size:
            damage.last_packet = packet.is_corrupt
        try:
            for frame in packet.decode():
                samples.add(frame)
        except Refused:
            raise
        except Exception:
            damage.packets += 1
            bad_in_a_row += 1
        else:
            damage.inside = damage.inside or (bad_in_a_row > 0 and bool(packet.size))
            bad_in_a_row = 0
    damage.inside = damage.inside or bad_in_a_row == MAX_BAD_PACKETS_IN_A_ROW
    samples.finish()
    return damage


def _sound_track(container: InputContainer) -> AudioStream:
    """The first audio stream, with every other one discarded."""
    if not container.streams.audio:
        if container.streams.video:
            raise Refused("no_audio_track", "the upload is a video without a sound track")
        raise _not_audio()
    stream = container.streams.audio[0]
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    stream.codec_context.thread_count = 1
    _check_shape(stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels)
    return stream


def _check_shape(rate: int, channels: int) -> None:
    if rate > MAX_SOURCE_RATE or channels > MAX_CHANNELS:
        raise Refused(
            "invalid_audio",
            f"the audio has {channels} channels at {rate} Hz: "
            f"at most {MAX_CHANNELS} channels and {MAX_SOURCE_RATE} Hz are accepted",
        )
    if rate <= 0 or channels <= 0:
        raise _not_audio()


def _promised_seconds(container: InputContainer, stream: AudioStream, head: bytes) -> float | None:
    """The length that the header states, or None where FFmpeg only guesses it from the bit rate."""
    name = container.format.name
    if name in ("aac", "mpegts", "amr", "ogg"):
        return None
    if name == "mp3" and not any(mark in head for mark in (b"Xing", b"Info", b"VBRI")):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000
    return None


def _is_cut_riff(head: bytes, size: int) -> bool:
    """Whether a WAV file is shorter than its header says (FFmpeg quietly corrects the header's length)."""
    stated = int(struct.unpack_from("<I", head, 4)[0])
    return 0 < stated < UNKNOWN_RIFF_SIZE and stated + 8 > size


def _not_audio() -> Refused:
    return Refused("invalid_audio", "this is not audio that Ingle can read")


def _too_long(limits: Limits) -> Refused:
    return Refused("audio_too_long", f"the audio is longer than the {limits.max_seconds:g} seconds accepted here")


def _open_nothing(*_request: object) -> BinaryIO:
    raise PermissionError(errno.EPERM, "no second file")


# -- the process --------------------------------------------------------------------------------------


def _lock_down(limits: Limits) -> None:
    """Give up what decoding does not need. What the system does not allow to give up is given up by whitelist only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "unshare") and libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    largest = math.ceil((limits.max_seconds + 60) * SAMPLE_RATE * 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    # Exactly the two files of a request fit: any further open, and any socket, fails in the kernel.
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 2, first_free + 2))


def _rehearse(limits: Limits) -> None:
    """Decode and refuse once, so that everything Python loads late is loaded while files can still be opened."""
    sound = bytes(SAMPLE_RATE // 5)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(sound), b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE,
                         SAMPLE_RATE * 2, 2, 16, b"data", len(sound))  # fmt: skip
    with io.FileIO(os.devnull, "wb") as nowhere:
        decode(io.BytesIO(header + sound), nowhere, limits)
        try:
            decode(io.BytesIO(b"this is not audio"), nowhere, limits)
        except Refused:
            return
        raise AssertionError("text was taken for audio")


def _receive(channel: socket.socket) -> tuple[str, BinaryIO, io.FileIO] | None:
    """What to take of the next request's audio, that audio and its spool, open; None when the parent has gone."""
    message, files, _flags, _address = socket.recv_fds(channel, 1, 2)
    if not message:
        return None
    return TAKES[message], os.fdopen(files[0], "rb"), io.FileIO(files[1], "wb")


def _answer(channel: socket.socket, take: str, audio: BinaryIO, spool: io.RawIOBase, limits: Limits) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = math.ceil(usage.ru_utime + usage.ru_stime)
    _soft, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + limits.cpu_seconds, most))

    def tell(written: int, promised: float | None) -> None:
        _send(channel, {"written": written, "promised": promised})

    try:
        return decode(audio, spool, limits, take, tell)
    except Refused as refusal:
        return {"code": refusal.code, "message": str(refusal)}


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def main() -> None:
    """Serve decode requests on standard input. The one argument is the limits as JSON."""
    limits = Limits(**json.loads(sys.argv[1]))
    channel = socket.socket(fileno=0)
    _rehearse(limits)
    _lock_down(limits)
    channel.sendall(b"{}\n")
    while (files := _receive(channel)) is not None:
        take, audio, spool = files
        with audio, spool:
            answer = _answer(channel, take, audio, spool, limits)
        _send(channel, answer)


if __name__ == "__main__":
    main()
