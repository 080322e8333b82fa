"""A server and Celery workers as processes, on a database of their own, and a provider that does their jobs."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import text

from infrastructure.persistence.opening import open_database
from tests.faults.nursery import Process, fork
from tests.faults.test_jobs_killed import QUICK, client_of, until
from tests.faults.test_serve import serving
from tests.providers.stub import delta

MODEL = "stub"


class Provider:
    """A model of another server: it says ok at once, or, to a text that begins with `wait`, once it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._let: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        provider = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = body["messages"][-1]["content"]
                provider.asked.append(text)
                if text.startswith("wait"):
                    provider._let[text].wait()
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("content-type", "text/event-stream")
                    self.end_headers()
                    self.wfile.write(delta("ok") + delta(finish="stop") + b"data: [DONE]\n\n")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def let(self, text: str) -> None:
        """Answer `text`, from now on."""
        self._let[text].set()

    def close(self) -> None:
        """Answer whoever still waits, and nobody else."""
        for waiting in list(self._let.values()):
            waiting.set()
        self._server.shutdown()
        self._server.server_close()


@dataclass
class CeleryWorker:
    """The process, and what it logs."""

    process: Process
    lines: list[str] = field(default_factory=list)

    def logged(self, text: str) -> int:
        """How many lines hold `text`."""
        return sum(text in line for line in list(self.lines))

    def read(self) -> None:
        """Collect its lines, until it ends."""
        assert self.process.stdout is not None
        self.lines += iter(self.process.stdout.readline, "")


@dataclass
class Town:
    """Where the processes meet; `settings` are those of all of them."""

    folder: Path
    provider: Provider
    settings: dict[str, str]

    @contextmanager
    def serving(self, **settings: str) -> Iterator[httpx2.Client]:
        """A client of a server that runs nothing itself."""
        mine = {**self.settings, "INGLE_JOBS_EXECUTOR": "celery", **settings}
        home = self.folder / "server"
        home.mkdir(exist_ok=True)
        with serving(home, forked=True, **mine) as server, client_of(server) as client:
            yield client
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)

    @contextmanager
    def working(self, name: str, *, forked: bool = True, **settings: str) -> Iterator[CeleryWorker]:
        """A Celery worker of all queues, as soon as it listens."""
        command = ["celery", "-A", "ingle.celery_app", "worker", "-n", f"{name}-{os.getpid()}@%h"]
        environ = self.environ(INGLE_WORKER_ID=name, INGLE_DATA_DIR=str(self.folder / name), **settings)
        started: AbstractContextManager[Process]
        if forked:
            started = fork(command, env=environ, cwd=self.folder, complaints=True)
        else:
            out, err = subprocess.PIPE, subprocess.STDOUT
            whole = [sys.executable, "-m", *command]
            started = subprocess.Popen(whole, env=environ, cwd=self.folder, stdout=out, stderr=err, text=True)
        with started as process:
            worker = CeleryWorker(process)
            threading.Thread(target=worker.read, daemon=True).start()
            try:
                until(lambda: worker.logged(" ready.") or process.poll() is not None)
                assert process.poll() is None, "".join(worker.lines)
                yield worker
            finally:
                process.kill()

    def environ(self, **settings: str) -> dict[str, str]:
        """The environment of a process that runs jobs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
        here = {"PYTHONPATH": str(Path(__file__).parents[2]), "INGLE_LOG_FORMAT": "json"}
        return {**kept, **here, **self.settings, **settings}

    def submit(self, client: httpx2.Client, text: str, **fields: Any) -> str:
        """The id of a new job, which is done by the provider."""
        body = {"owner_service": "town", "task_type": "llm_chat", "model_profile": MODEL, "input": {"user": text}}
        answer = client.post("/api/v1/jobs", json={**body, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def let_half_a_minute_pass(self) -> None:
        """As far as the dispatcher knows."""
        statement = "UPDATE jobs SET dispatched_at = dispatched_at - 30000"

        async def run() -> None:
            database, _ = open_database(self.settings["INGLE_DATABASE_URL"])
            await database.write(lambda c: c.execute(text(statement)) and None)
            await database.close()

        asyncio.run(run())


def town_of(folder: Path, provider: Provider, broker_url: str, database_url: str | None = None) -> Town:
    """A town whose chores are quick and whose workers look for jobs by themselves only once an hour.

    Its database is a file where no other is named.
    """
    settings = {
        **QUICK,
        "INGLE_DATABASE_URL": database_url or f"sqlite:///{folder / 'jobs.db'}",
        "CELERY_BROKER_URL": broker_url,
        "LLM_BASE_URL": provider.url,
        "LLM_MODEL": MODEL,
        "INGLE_WORKER_POLL_INTERVAL": "12m",
        "INGLE_DRAIN": "2s",
    }
    return Town(folder, provider, settings)


def over(client: httpx2.Client, job: str) -> dict[str, Any]:
    """That job, once it is over."""
    found: dict[str, Any] = client.get(f"/api/v1/jobs/{job}?wait=30&include=attempts").json()
    return found
