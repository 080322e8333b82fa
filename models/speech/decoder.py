"""Untrusted uploads in, samples out: the parent's side of decoding.

The upload reaches FFmpeg as an open file in a process of its own (`decode_child.py`), never as a name. The
samples come back through a temporary file that has no name either, so nothing is left behind however this ends.
"""

import asyncio
import contextlib
import math
import os
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from domain.caveat import Caveat
from domain.errors import (
    AudioRefused,
    AudioTooLong,
    DecodeTimeout,
    EmptyAudio,
    EngineUnavailable,
    IngleError,
    InsufficientStorage,
    InvalidRequest,
    NoAudioTrack,
    RequestCancelled,
)
from domain.transcription import Channel
from models.speech.decode_child import Limits
from models.speech.decode_process import Decoded, DecodeProcess, Grown, ProcessDied
from models.speech.recording import Recording

AUDIO_FORMATS = "wav,mp3,flac,ogg,mov,matroska,aac,aiff,amr,caf,mpegts"

_REFUSALS: dict[str, type[IngleError]] = {
    "empty_audio": EmptyAudio,
    "no_audio_track": NoAudioTrack,
    "audio_too_long": AudioTooLong,
    "no_space": InsufficientStorage,
}
_CAVEATS = {
    "audio_truncated": "the audio ends before its header says: what there is was used",
    "audio_damaged": "parts of the audio could not be decoded and were left out",
}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What one upload may cost.

    `formats` are FFmpeg's names of demuxers; `max_raw_bytes` counts samples as the file holds them;
    `timeout_seconds` is wall time; `memory_bytes` is the address space of a decode process; `min_free_bytes` stay
    free on the disk that takes the samples.
    """

    formats: str = AUDIO_FORMATS
    max_seconds: float = 14_400.0
    max_raw_bytes: int = 8 << 30
    timeout_seconds: float = 120.0
    memory_bytes: int = 1 << 30
    files_per_process: int = 200
    min_free_bytes: int = 0


class AudioDecoder:
    """Decodes uploads in a few warm processes, one upload at a time each; more of them wait their turn.

    A process that crashes or overruns a limit spoils its own upload only and is replaced.
    """

    def __init__(
        self, limits: DecodeLimits | None = None, *, processes: int = 2, spool_dir: Path | None = None
    ) -> None:
        """`spool_dir` takes the samples (32 kB a second) while they are in use; None is the system's place."""
        self._limits = limits or DecodeLimits()
        self._spool_dir = spool_dir
        self._threads = ThreadPoolExecutor(max_workers=processes, thread_name_prefix="decode")
        self._idle: list[DecodeProcess] = []
        self._jobs: set[_Job] = set()
        self._lock = threading.Lock()
        self._closed = False

    def open(self, audio: Path, channel: Channel = Channel.MIX) -> Recording:
        """Begin to read the first sound track of the file `audio`; the caller closes what it gets.

        Waiting for the recording raises AudioRefused, EmptyAudio, NoAudioTrack, AudioTooLong, DecodeTimeout,
        InsufficientStorage (no room for the samples), InvalidRequest (one channel cannot be split) and
        EngineUnavailable (no decode process can be started, or the decoder is closed), the last one at once.
        """
        if self._closed:
            raise EngineUnavailable("the audio decoder is closed")
        job = _Job()
        spool = self._new_spool()
        recording = Recording(spool, 2 if channel is Channel.SPLIT else 1, job.cancel)
        self._jobs.add(job)
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._decode, audio, channel, job, spool, weakref.ref(recording)
        )
        work.add_done_callback(lambda _done: self._jobs.discard(job))
        return recording

    async def decode(self, audio: Path, channel: Channel = Channel.MIX) -> Recording:
        """The whole recording; see `open` for what it raises. Cancelling ends the work at once."""
        recording = self.open(audio, channel)
        try:
            await recording.wait_for_all()
        except BaseException:
            recording.close()
            raise
        return recording

    def close(self) -> None:
        """End the processes; whoever still waits for one gets RequestCancelled."""
        self._closed = True
        for job in list(self._jobs):
            job.cancel()
        self._threads.shutdown(wait=True)
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _new_spool(self) -> BinaryIO:
        """A file without a name, which the decoding thread closes."""
        try:
            if self._spool_dir is not None:
                self._spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool = tempfile.TemporaryFile(dir=self._spool_dir, prefix="ingle-samples-")  # noqa: SIM115
        except OSError as error:
            raise InsufficientStorage(f"there is no place to decode the audio to: {error.strerror}") from None
        return cast(BinaryIO, spool)

    def _decode(
        self, audio: Path, channel: Channel, job: "_Job", spool: BinaryIO, heard: "weakref.ref[Recording]"
    ) -> None:
        """Runs on a decoding thread and tells the recording, as long as somebody has it, how it goes."""

        def grew(grown: Grown) -> None:
            self._check_disk()
            recording = heard()
            if recording is not None:
                recording.grew(grown)

        try:
            with spool:
                decoded = self._decode_file(audio, channel, job, spool.fileno(), grew)
        except Exception as error:
            if (recording := heard()) is not None:
                recording.failed(error)
            return
        if (recording := heard()) is not None:
            recording.ended(decoded.samples, tuple(Caveat(code, _CAVEATS[code]) for code in decoded.caveats))
        if job.used_up_process:
            # Refused once the decoder is closed.
            with contextlib.suppress(RuntimeError):
                self._threads.submit(self._warm_up)

    def _decode_file(
        self, audio: Path, channel: Channel, job: "_Job", spool: int, grew: Callable[[Grown], None]
    ) -> Decoded:
        source = _open_upload(audio)
        try:
            self._check_disk()
            decoded = self._run(source, spool, job, channel, grew)
        finally:
            os.close(source)
        if decoded.code == "one_channel":
            raise InvalidRequest(decoded.message, field="channel")
        if decoded.code is not None:
            raise _REFUSALS.get(decoded.code, AudioRefused)(decoded.message)
        return decoded

    def _check_disk(self) -> None:
        if self._limits.min_free_bytes and (
            shutil.disk_usage(self._spool_dir or tempfile.gettempdir()).free < self._limits.min_free_bytes
        ):
            raise InsufficientStorage("there is not enough free disk space to decode the audio")

    def _run(self, source: int, spool: int, job: "_Job", channel: Channel, grew: Callable[[Grown], None]) -> Decoded:
        job.check()
        process = self._take()
        usable = False
        try:
            job.start(process)
            take = channel.value[:1].encode()
            decoded = process.decode(source, spool, self._limits.timeout_seconds, take, grew)
            # What gave way once would let the next caller's short clip wait too.
            job.used_up_process = process.gave_way
            usable = process.files < self._limits.files_per_process and not process.gave_way
            return decoded
        except TimeoutError:
            raise DecodeTimeout(
                f"decoding the audio took longer than {self._limits.timeout_seconds:g} seconds"
            ) from None
        except ProcessDied:
            job.check()
            raise AudioRefused("decoding the audio crashed: it is damaged or not audio") from None
        finally:
            if job.finish() and usable:
                with self._lock:
                    self._idle.append(process)
            else:
                process.close()

    def _take(self) -> DecodeProcess:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return self._started()
            if process.is_alive():
                return process
            process.close()

    def _started(self) -> DecodeProcess:
        limits = self._limits
        return DecodeProcess(
            Limits(
                formats=limits.formats,
                max_seconds=limits.max_seconds,
                max_raw_bytes=limits.max_raw_bytes,
                cpu_seconds=math.ceil(limits.timeout_seconds) + 5,
                memory_bytes=limits.memory_bytes,
            )
        )

    def _warm_up(self) -> None:
        """Start a process for the next upload, which otherwise would wait for it, and hear of it if there is none."""
        with contextlib.suppress(EngineUnavailable):
            process = self._started()
            with self._lock:
                self._idle.append(process)


class _Job:
    """Where the event loop tells a decoding thread to stop; whether its process is of no use afterwards."""

    def __init__(self) -> None:
        self.used_up_process = False
        self._lock = threading.Lock()
        self._process: DecodeProcess | None = None
        self._cancelled = False

    def start(self, process: DecodeProcess) -> None:
        """From now on `cancel` kills `process`. Raises RequestCancelled if it came before."""
        with self._lock:
            self._process = process
        self.check()

    def check(self) -> None:
        """Raise RequestCancelled after `cancel`."""
        if self._cancelled:
            raise RequestCancelled()

    def finish(self) -> bool:
        """`cancel` has no effect any more. False if it came in time to kill the process."""
        with self._lock:
            self._process = None
            return not self._cancelled

    def cancel(self) -> None:
        """Stop the work, whether it has begun or not."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()


def _open_upload(audio: Path) -> int:
    try:
        # O_NONBLOCK: a named pipe must not hold the thread until somebody writes to it.
        descriptor = os.open(audio, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AudioRefused(f"the audio file '{audio.name}' cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AudioRefused(f"'{audio.name}' is not a regular file")
    return descriptor
