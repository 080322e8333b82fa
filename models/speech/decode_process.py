"""The parent's handle on one decode process: start it, give it an upload, end it."""

import contextlib
import json
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from domain.errors import EngineUnavailable
from models.speech.decode_child import Limits

SCRIPT = Path(__file__).with_name("decode_child.py")
START_SECONDS = 60.0
MAX_ANSWER_BYTES = 1 << 16
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


class DecodeProcess:
    """One warm child process without network, environment or terminal. One caller at a time; `kill` from any thread."""

    def __init__(self, limits: Limits) -> None:
        """Start it and wait until it is ready. Raises EngineUnavailable if it cannot start."""
        self.files = 0
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

    def decode(self, audio: int, spool: int, timeout: float) -> Decoded:
        """Decode the open file `audio` onto the open file `spool` (descriptors).

        Raises TimeoutError after `timeout` seconds and ProcessDied; the process is of no use after either.
        """
        self.files += 1
        try:
            socket.send_fds(self._channel, [b"\n"], [audio, spool])
        except OSError:
            raise ProcessDied from None
        answer = self._answer(timeout)
        return Decoded(
            int(answer.get("samples", 0)),
            tuple(answer.get("caveats", ())),
            answer.get("code"),
            answer.get("message", ""),
        )

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
        self._channel.settimeout(timeout)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while not received.endswith(b"\n") and len(received) < MAX_ANSWER_BYTES:
                piece = self._channel.recv(MAX_ANSWER_BYTES)
                if not piece:
                    break
                received += piece
        if not received.endswith(b"\n"):
            raise ProcessDied
        answer = json.loads(received)
        if not isinstance(answer, dict):
            raise ProcessDied
        return answer
