"""A recording while it is decoded: samples in a file without a name, and how far they reach."""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from domain.caveat import Caveat
from domain.errors import RequestCancelled
from models.speech.decode_child import SAMPLE_RATE
from models.speech.decode_process import Grown

_BYTES = 2


class Recording:
    """16-bit samples at 16 kHz of one channel or two, on disk until `close` or until the last reference goes.

    It is made and waited for on one event loop; `read` may be called from any thread.
    """

    def __init__(self, spool: BinaryIO, channels: int, stop: Callable[[], None]) -> None:
        """`spool` is duplicated; `stop` ends the decoding, if it has not ended."""
        self.channels = channels
        self.promised: float | None = None
        """Seconds that the file's header states."""
        self.caveats: tuple[Caveat, ...] = ()
        self.samples_known = 0
        self.is_done = False
        self._failure: BaseException | None = None
        self._stop = stop
        self._lock = threading.Lock()
        self._file = os.dup(spool.fileno())
        self._released = weakref.finalize(self, os.close, self._file)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    @property
    def seconds(self) -> float:
        """How long it is, as far as it is decoded."""
        return self.samples_known / SAMPLE_RATE

    @property
    def total(self) -> tuple[float | None, bool]:
        """How long all of it is, None if nobody knows yet, and whether that is only the header's claim."""
        if self.is_done:
            return self.seconds, False
        return (None if self.promised is None else max(self.promised, self.seconds)), self.promised is not None

    @property
    def samples(self) -> npt.NDArray[np.int16]:
        """All that is decoded, of the first channel."""
        return self.read(0, self.samples_known)

    async def wait_beyond(self, sample: int) -> int:
        """How many samples there are, once they are more than `sample` or all. Raises what decoding raised."""
        while not self.is_done and self.samples_known <= sample and self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        return self.samples_known

    async def wait_for_all(self) -> None:
        """Until everything is decoded. Raises what decoding raised."""
        while not self.is_done:
            await self.wait_beyond(self.samples_known)

    def read(self, start: int, stop: int, channel: int = 0) -> npt.NDArray[np.int16]:
        """Samples `start` to `stop` of a channel. Raises RequestCancelled after `close`."""
        width = _BYTES * self.channels
        with self._lock:
            if not self._released.alive:
                raise RequestCancelled
            data = b""
            while len(data) < (stop - start) * width:
                piece = os.pread(self._file, (stop - start) * width - len(data), start * width + len(data))
                if not piece:
                    break
                data += piece
        return np.frombuffer(data, dtype=np.int16).reshape(-1, self.channels)[:, channel]

    def sound(self, start: int, stop: int, channel: int = 0) -> npt.NDArray[np.float32]:
        """The same from -1 to 1."""
        return self.read(start, stop, channel).astype(np.float32) / 32768.0

    def close(self) -> None:
        """Stop the decoding and let the samples go."""
        if not self.is_done:
            self._stop()
        with self._lock:
            self._released()

    # -- what the decoding thread tells ---------------------------------------------------------------

    def grew(self, grown: Grown) -> None:
        """There are more samples."""
        self._tell(self._grew, grown)

    def _grew(self, grown: Grown) -> None:
        self.samples_known, self.promised = grown.samples, grown.promised
        self._changed.set()

    def ended(self, samples: int, caveats: tuple[Caveat, ...]) -> None:
        """That was all."""
        self._tell(self._ended, samples, caveats)

    def _ended(self, samples: int, caveats: tuple[Caveat, ...]) -> None:
        self.samples_known, self.caveats, self.is_done = samples, caveats, True
        self._changed.set()

    def failed(self, error: BaseException) -> None:
        """There will be no more."""
        self._tell(self._failed, error)

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        self._changed.set()

    def _tell(self, what: Callable[..., None], *values: object) -> None:
        # The loop may have ended under a decoding that nobody waits for.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *values)
