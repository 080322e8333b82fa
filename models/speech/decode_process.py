"""The parent's handle on one decode process: start it, give it an upload, end it."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from domain.errors import EngineUnavailable
from models.giving_way import make_way
from models.speech.decode_child import SAMPLE_RATE, Limits

SCRIPT = Path(__file__).with_name("decode_child.py")
START_SECONDS = 60.0
MAX_ANSWER_BYTES = 1 << 16
_LONG_SAMPLES = 60 * SAMPLE_RATE
CANNOT_START = "the process that decodes audio could not be started"


class ProcessDied(Exception):
    """The decode process ended in the middle of an upload: by a crash, by a limit, or by `kill`."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the process said of an upload: samples and caveats, or the code and the message of a refusal."""

    samples: int
    caveats: tuple[str, ...]
    code: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Grown:
    """How many samples are on the spool, and how many seconds the header promises, if it does."""

    samples: int
    promised: float | None


class DecodeProcess:
    """One warm child process without network, environment or terminal. One caller at a time; `kill` from any thread."""

    def __init__(self, limits: Limits) -> None:
        """Start it and wait until it is ready. Raises EngineUnavailable if it cannot start."""
        self.files = 0
        self.gave_way = False
        self._received = b""
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 -- our interpreter, our script, no shell
                    [sys.executable, "-I", str(SCRIPT), json.dumps(asdict(limits))],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={},
                    start_new_session=True,
                )
        except OSError:
            self._channel.close()
            raise EngineUnavailable(CANNOT_START) from None
        try:
            self._answer(START_SECONDS)
        except (ProcessDied, TimeoutError):
            self.close()
            raise EngineUnavailable(CANNOT_START) from None

    def decode(
        self, audio: int, spool: int, timeout: float, take: bytes = b"m", tell: Callable[[Grown], None] | None = None
    ) -> Decoded:
        """Decode the open file `audio` onto the open file `spool` (descriptors).

        With a long one it gives way to others, for good, which `gave_way` tells.

        `take` is a key of TAKES; `tell` hears of every piece that is on the spool. Raises TimeoutError after
        `timeout` seconds, ProcessDied and what `tell` raises; the process is of no use after any of them.
        """
        self.files += 1
        give_up_at = time.monotonic() + timeout
        try:
            socket.send_fds(self._channel, [take], [audio, spool])
        except OSError:
            raise ProcessDied from None
        while "written" in (answer := self._answer(give_up_at - time.monotonic())):
            grown = Grown(int(answer["written"]), answer.get("promised"))
            if grown.samples > _LONG_SAMPLES and not self.gave_way:
                self._give_way()
            if tell is not None:
                tell(grown)
        return Decoded(
            int(answer.get("samples", 0)),
            tuple(answer.get("caveats", ())),
            answer.get("code"),
            answer.get("message", ""),
        )

    def _give_way(self) -> None:
        self.gave_way = True
        # One that has died meanwhile is found out by the next answer.
        with contextlib.suppress(ProcessLookupError):
            make_way(self._process.pid)

    def is_alive(self) -> bool:
        """Whether it can take another upload."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once; a `decode` that waits for it raises ProcessDied."""
        self._process.kill()

    def close(self) -> None:
        """End it and free what belongs to it."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _answer(self, timeout: float) -> dict[str, Any]:
        if timeout <= 0:
            raise TimeoutError
        give_up_at = time.monotonic() + timeout
        with contextlib.suppress(ConnectionResetError):
            while b"\n" not in self._received and len(self._received) < MAX_ANSWER_BYTES:
                self._channel.settimeout(max(0.001, give_up_at - time.monotonic()))
                piece = self._channel.recv(MAX_ANSWER_BYTES)
                if not piece:
                    break
                self._received += piece
        line, end, rest = self._received.partition(b"\n")
        if not end:
            raise ProcessDied
        self._received = rest
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ProcessDied
        return answer
