"""A server of one's own: `python -m ingle serve` as a process, on a free port, for the length of a `with` block."""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

START_SECONDS = 60.0
STOP_SECONDS = 30.0
REMEMBERED_LINES = 40

_URL = re.compile(r"http://[\w.\[\]:]+:\d+")


class ServerFailed(Exception):
    """The server did not start; the message holds its last words."""


class Server:
    """`url` is where it listens. Its log is read all the time (a full pipe would stop it) and its end is kept."""

    def __init__(self, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """`options` go to `ingle serve`; `environment` replaces the one of this process."""
        given = os.environ if environment is None else environment
        self._command = [sys.executable, "-m", "ingle", "serve", "--host", "127.0.0.1", "--port", "0", *options]
        self._environment = {**given, "INGLE_LOG_FORMAT": "json", "INGLE_LOG_LEVEL": "info"}
        self._lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._listening = threading.Event()
        self.url = ""

    def __enter__(self) -> Self:
        """Start it. Raises ServerFailed."""
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(START_SECONDS) or not self.url:
            self._stop()
            raise ServerFailed("the server did not start:\n" + self.last_words())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it, gently at first."""
        self._stop()

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        return "".join(self._lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as log:
            for line in log:
                self._lines.append(line)
                if not self.url and "serving" in line and (found := _URL.search(line)):
                    self.url = found.group()
                    self._listening.set()
        self._listening.set()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
