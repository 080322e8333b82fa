"""`ingle serve` as a process: it starts, answers, stops when it is told to, and at once when it is told twice."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.faults.nursery import Process, fork

PATIENCE = 60


@dataclass
class Running:
    """The process, where it answers, and what it logs."""

    process: Process
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first record of that name, which may have come before; the process must not end without it."""
        assert self.process.stdout is not None
        while (record := next((record for record in self.seen if record["event"] == event), None)) is None:
            line = self.process.stdout.readline()
            assert line, f"the server ended without '{event}'"
            self.seen.append(json.loads(line))
        return record


@contextmanager
def serving(tmp_path: Path, *, forked: bool = False, **settings: str) -> Iterator[Running]:
    """`ingle serve`; `forked` saves the seconds that its imports take."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    environ |= {"INGLE_DATA_DIR": str(tmp_path), "INGLE_HTTP_PORT": "0", "INGLE_LOG_FORMAT": "json", **settings}
    with started(["serve"], environ, tmp_path, forked=forked) as process:
        running = Running(process)
        try:
            running.url = running.wait_for("serving")["url"]
            yield running
        finally:
            process.kill()


def started(
    arguments: list[str], environ: dict[str, str], folder: Path, *, forked: bool
) -> AbstractContextManager[Process]:
    """`ingle` with those arguments; the block waits for its end."""
    if forked:
        return fork(["ingle", *arguments], env=environ, cwd=folder)
    command = [sys.executable, "-m", "ingle", *arguments]
    return subprocess.Popen(command, env=environ, cwd=folder, stdout=subprocess.PIPE, text=True)


def test_a_server_answers_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    with serving(tmp_path, INGLE_PRELOAD_MODELS="qwen2.5-coder:0.5b") as server:
        assert "not installed" in server.wait_for("preload failed")["reason"]
        health = httpx2.get(f"{server.url}/health", trust_env=False)
        assert (health.status_code, health.json()["status"]) == (200, "healthy")
        assert health.headers["server"].startswith("ingle/")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_for("stopped")
        assert server.process.wait(PATIENCE) == 0
        assert [path for path in (tmp_path / "uploads").iterdir() if path.is_dir()] == []


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, INGLE_DRAIN="10m") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port or 0), PATIENCE) as client:
            client.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            httpx2.get(f"{server.url}/healthz", trust_env=False)  # by now the first request is in the server's hands
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("stopping when the work in flight is done")
            server.process.send_signal(signal.SIGTERM)
            assert server.wait_for("stopping at once")
            assert server.process.wait(PATIENCE) == 1


@pytest.mark.weights
@pytest.mark.timeout(300)
def test_the_demo_prints_a_translation_and_a_transcript() -> None:
    result = subprocess.run([sys.executable, "-m", "ingle", "demo"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "comment allez-vous aujourd'hui" in result.stdout
    assert "ask not what your country can do for you" in result.stdout


@pytest.mark.weights
def test_ctrl_c_ends_an_answer_in_the_middle_at_once() -> None:
    command = [sys.executable, "-m", "ingle", "generate", "--temperature", "0", "Count from 1 to 200 in words."]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said == b"\ninterrupted\n"
