"""Untrusted uploads in, samples out: the parent's side of decoding.

The upload reaches FFmpeg as an open file in a process of its own (`decode_child.py`), never as a name. The
samples come back through a temporary file that has no name either, so nothing is left behind however this ends.
"""

import asyncio
import math
import os
import stat
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from domain.errors import (
    AudioRefused,
    AudioTooLong,
    DecodeTimeout,
    EmptyAudio,
    EngineUnavailable,
    IngleError,
    InsufficientStorage,
    NoAudioTrack,
    RequestCancelled,
)
from domain.transcription import Caveat
from models.speech.decode_child import SAMPLE_RATE, Limits
from models.speech.decode_process import Decoded, DecodeProcess, ProcessDied

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
    `timeout_seconds` is wall time; `memory_bytes` is the address space of a decode process.
    """

    formats: str = AUDIO_FORMATS
    max_seconds: float = 14_400.0
    max_raw_bytes: int = 8 << 30
    timeout_seconds: float = 120.0
    memory_bytes: int = 1 << 30
    files_per_process: int = 200


@dataclass(frozen=True, slots=True)
class Recording:
    """Decoded audio: 16-bit mono samples at 16 kHz, on disk until the last reference goes."""

    samples: npt.NDArray[np.int16]
    caveats: tuple[Caveat, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / SAMPLE_RATE


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

    async def decode(self, audio: Path) -> Recording:
        """Read the first sound track of the file `audio`. Cancelling ends the work at once.

        Raises AudioRefused, EmptyAudio, NoAudioTrack, AudioTooLong, DecodeTimeout, InsufficientStorage (no room
        for the samples), EngineUnavailable (no decode process can be started, or the decoder is closed).
        """
        if self._closed:
            raise EngineUnavailable("the audio decoder is closed")
        job = _Job()
        self._jobs.add(job)
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._decode, audio, job)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            job.cancel()
            # The thread's own end, with nobody to hear of it.
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        finally:
            self._jobs.discard(job)

    def close(self) -> None:
        """End the processes; whoever still waits for one gets RequestCancelled."""
        self._closed = True
        for job in list(self._jobs):
            job.cancel()
        self._threads.shutdown(wait=True)
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _decode(self, audio: Path, job: "_Job") -> Recording:
        source = _open_upload(audio)
        try:
            with tempfile.TemporaryFile(dir=self._spool_dir, prefix="ingle-samples-") as spool:
                decoded = self._run(source, spool.fileno(), job)
                if decoded.code is not None:
                    raise _REFUSALS.get(decoded.code, AudioRefused)(decoded.message)
                # The mapping keeps the file's blocks after it is closed.
                samples = np.memmap(spool, dtype=np.int16, mode="r", shape=(decoded.samples,))
        finally:
            os.close(source)
        return Recording(samples, tuple(Caveat(code, _CAVEATS[code]) for code in decoded.caveats))

    def _run(self, source: int, spool: int, job: "_Job") -> Decoded:
        job.check()
        process = self._take()
        usable = False
        try:
            job.start(process)
            decoded = process.decode(source, spool, self._limits.timeout_seconds)
            usable = process.files < self._limits.files_per_process
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
            if process.is_alive():
                return process
            process.close()


class _Job:
    """Where the event loop tells a decoding thread to stop."""

    def __init__(self) -> None:
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
