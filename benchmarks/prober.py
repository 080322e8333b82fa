"""Asks one address at a fixed rate from a process of its own and notes how long each answer took."""

import http.client
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. `at` is when it was due (seconds of the monotonic clock, the same in every process).

    `seconds` counts from then on if the prober was still waiting for the answer before, so that one slow
    answer does not hide those that would have been slow behind it; otherwise from when it was really sent.
    """

    at: float
    seconds: float
    ok: bool


class Prober:
    """Probes from entering the `with` block until `stop`, `rate` times a second."""

    def __init__(self, url: str, rate: float) -> None:
        # spawn: a fork would share this process's threads' locks and sockets.
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_probe_until_told, args=(url, rate, theirs), daemon=True)

    def __enter__(self) -> Self:
        """Start; returns when the first answer is there. Raises ConnectionError if there is none."""
        self._process.start()
        if not self._ours.poll(60.0) or not self._ours.recv():
            self._process.kill()
            raise ConnectionError("the prober gets no answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def stop(self) -> list[Probe]:
        """Every probe since the start, in order."""
        self._ours.send(None)
        probes: list[Probe] = self._ours.recv()
        self._process.join()
        return probes


def _probe_until_told(url: str, rate: float, pipe: Connection) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
    pipe.send(_ask(connection, parts.path))
    probes: list[Probe] = []
    due = time.monotonic()
    while not pipe.poll(max(0.0, due - time.monotonic())):
        sent = time.monotonic()
        waited_for_answer = bool(probes) and probes[-1].at + probes[-1].seconds > due
        began = due if waited_for_answer else sent
        ok = _ask(connection, parts.path)
        probes.append(Probe(began, time.monotonic() - began, ok))
        due += 1.0 / rate
    pipe.send(probes)


def _ask(connection: http.client.HTTPConnection, path: str) -> bool:
    """Whether the answer was 200; the next question opens a new connection if this one broke."""
    try:
        connection.request("GET", path)
        with connection.getresponse() as response:
            response.read()
            return response.status == 200
    except (OSError, http.client.HTTPException):
        connection.close()
        return False
