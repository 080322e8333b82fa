"""Processes of `ingle` and `celery` that begin in a moment: forks of one that has imported everything and done nothing.

A process of its own takes seconds to import its libraries. What a fork runs is the same command line with the same
environment; that it also starts without a parent that has done the imports is told by test_serve.py and the first
Celery worker of test_celery.py.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

PARENT = "INGLE_TEST_PARENT"
MOST_BYTES = 1 << 20


class Process(Protocol):
    """What tests use of `subprocess.Popen`, where the output is text."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    @property
    def stdout(self) -> IO[str] | None:
        """What it writes, complaints too where they were asked for."""
        ...

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """How it ended; a signal is a negative number. Raises subprocess.TimeoutExpired."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Forked:
    """A Process; left as a block it is waited for, like one of `subprocess`."""

    def __init__(self, pid: int, stdout: IO[str]) -> None:
        self.pid = pid
        self.stdout = stdout
        self._handle = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        if self._code is None and select.select([self._handle], [], [], 0)[0]:
            self._code = _nursery().ask({"ended": self.pid})
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """How it ended. Raises subprocess.TimeoutExpired."""
        if self._code is None and not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, sig)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.wait()
        # Whoever still reads has come to the end.
        self.stdout.close()
        os.close(self._handle)


def fork(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, complaints: bool = False) -> Forked:
    """Run `ingle …` or `celery …`; with `complaints` its standard error goes where its output goes."""
    near, far = os.pipe()
    try:
        request = {"command": list(command), "env": dict(env), "cwd": str(cwd), "complaints": complaints}
        pid = _nursery().ask(request, far)
    except BaseException:
        os.close(near)
        raise
    finally:
        os.close(far)
    return Forked(pid, os.fdopen(near))


class _Nursery:
    """The process that forks, which ends when this one does."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        environ = {**os.environ, PARENT: str(theirs.fileno())}
        command = [sys.executable, "-m", "tests.faults.forking"]
        with theirs:
            self._process = subprocess.Popen(
                command, env=environ, cwd=Path(__file__).parents[2], pass_fds=[theirs.fileno()]
            )
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any], *fds: int) -> int:
        """The number that answers `request`."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
            answer = self._socket.recv(MOST_BYTES)
        assert answer, "the nursery has ended"
        return int(answer)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


@cache
def _nursery() -> _Nursery:
    return _Nursery()
