"""Processes that are killed while they work on jobs: nothing that was acknowledged is lost, nothing is done twice."""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import httpx2
import pytest

from tests.databases import POSTGRES_URL
from tests.faults.test_serve import Running, serving, started
from tests.needs import default_settings

TEXT = "qwen2.5-coder:0.5b"
# So many that all five are still being written when the worker is killed.
TOKENS = 120
# Longer than the event loop of a process that loads a model can be held up on a busy machine.
LEASE = 3.0
QUICK = {
    "INGLE_JOBS_LEASE": f"{LEASE:g}s",
    "INGLE_JOBS_REAP_INTERVAL": "200ms",
    "INGLE_LAME_DUCK": "0",
    "INGLE_JOBS_LEASE_MIN": "1s",
}


@contextmanager
def working(tmp_path: Path, **settings: str) -> Iterator[Running]:
    """A process of `ingle worker`."""
    tmp_path.mkdir(exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    environ |= {"INGLE_DATA_DIR": str(tmp_path), "INGLE_LOG_FORMAT": "json", **QUICK, **settings}
    with started(["worker", "--limit", "5"], environ, tmp_path, forked=True) as process:
        running = Running(process)
        try:
            running.wait_for("working")
            leave_log(running)
            yield running
        finally:
            process.kill()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
        return
    name = f"ingle_{uuid.uuid4().hex}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(POSTGRES_URL)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run(f"CREATE DATABASE {name}"))
    try:
        yield POSTGRES_URL.rpartition("/")[0] + f"/{name}"
    finally:
        asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def client_of(server: Running) -> Iterator[httpx2.Client]:
    """A client, as soon as the server is ready; nobody may wait for its log any more."""
    leave_log(server)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


def leave_log(running: Running) -> None:
    """Read its log and forget it: a process whose pipe is full stands still."""
    threading.Thread(target=lambda: deque(running.process.stdout or (), maxlen=0), daemon=True).start()


def until(holds: Any, seconds: float = 60) -> None:
    """Ask again and again: what is asked is another process."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def test_what_a_killed_server_acknowledged_is_there_and_is_done_once(tmp_path: Path, database: str) -> None:
    # A short lease, because nothing here loads a model.
    settings = {"INGLE_DATABASE_URL": database, "INGLE_JOBS_EXECUTOR": "none", **QUICK, "INGLE_JOBS_LEASE": "1s"}
    body = {"owner_service": "load", "task_type": "call_analysis", "model_profile": "other", "input": {"n": 1}}
    acknowledged: list[str] = []
    # Also of those whose answer never came: they may have been stored or not.
    keys: list[str] = []
    completed: Counter[str] = Counter()

    def submit(url: str) -> None:
        client = httpx2.Client(base_url=url, trust_env=False, timeout=10)
        with client, contextlib.suppress(httpx2.HTTPError):
            while True:
                key = uuid.uuid4().hex
                keys.append(key)
                asked = client.post("/api/v1/jobs", json=body, headers={"idempotency-key": key})
                acknowledged.append(asked.json()["id"])

    def work(client: httpx2.Client) -> bool:
        jobs = client.post("/api/v1/jobs/claim", json={"worker_id": "w", "limit": 20}).json()["jobs"]
        for job in jobs:
            report = {"lease_token": job["lease_token"], "result": {"by": job["attempt"]}}
            done = client.post(f"/api/v1/jobs/{job['id']}/complete", json=report)
            completed[job["id"]] += done.status_code == 200 and not done.json()["replayed"]
        return bool(jobs)

    def work_until_killed(url: str) -> None:
        client = httpx2.Client(base_url=url, trust_env=False, timeout=10)
        with client, contextlib.suppress(httpx2.HTTPError):
            while True:
                work(client)

    with serving(tmp_path, forked=True, **settings) as server:
        with client_of(server):
            pass
        threads = [threading.Thread(target=submit, args=[server.url]) for _ in range(3)]
        threads.append(threading.Thread(target=work_until_killed, args=[server.url]))
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) > 60 and len(completed) > 10)
        server.process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    with serving(tmp_path, forked=True, **settings) as server, client_of(server) as client:
        # Whoever heard nothing asks again, and has one job for each key in all.
        for key in keys:
            assert client.post("/api/v1/jobs", json=body, headers={"idempotency-key": key}).status_code in (200, 201)
        counts = client.get("/api/v1/stats", params={"owner_service": "load"}).json()["jobs"]
        assert sum(counts.values()) == len(keys)

        def all_done() -> bool:
            work(client)
            counts = client.get("/api/v1/stats", params={"owner_service": "load"}).json()["jobs"]
            return counts["pending"] + counts["running"] == 0  # type: ignore[no-any-return]

        until(all_done)
        jobs = [client.get(f"/api/v1/jobs/{one}").json() for one in acknowledged]
        assert {job["status"] for job in jobs} == {"completed"}
        assert max(completed.values()) == 1
        for one in acknowledged[:: len(acknowledged) // 20]:
            kinds = [event["kind"] for event in client.get(f"/api/v1/jobs/{one}/events").json()["events"]]
            assert kinds.count("completed") == 1


@pytest.mark.weights(TEXT)
@pytest.mark.timeout(180)
def test_five_generations_of_a_killed_worker_are_done_by_another(tmp_path: Path) -> None:
    shared = {
        "INGLE_DATABASE_URL": f"sqlite:///{tmp_path / 'jobs.db'}",
        "INGLE_MODELS_DIR": str(default_settings().models_dir),
    }
    story = {"user": "Write a story about a lighthouse.", "max_tokens": TOKENS, "seed": 7}
    body = {"owner_service": "stories", "task_type": "llm_chat", "model_profile": TEXT, "input": story}
    with (
        serving(tmp_path, forked=True, INGLE_JOBS_EXECUTOR="none", **QUICK, **shared) as server,
        client_of(server) as client,
        working(tmp_path / "first", INGLE_WORKER_ID="first", **shared) as first,
    ):
        ids = [client.post("/api/v1/jobs", json=body).json()["id"] for _ in range(5)]

        def all_running() -> bool:
            return client.get("/api/v1/jobs", params={"status": "running"}).text.count('"attempt":1') == 5

        until(all_running)
        first.process.send_signal(signal.SIGKILL)
        with working(tmp_path / "second", INGLE_WORKER_ID="second", **shared) as second:
            there_at = time.monotonic()

            def all_again() -> bool:
                jobs = [client.get(f"/api/v1/jobs/{one}").json() for one in ids]
                return all(job["attempt"] == 2 for job in jobs)

            until(all_again)
            assert time.monotonic() - there_at < LEASE + 5
            jobs = [client.get(f"/api/v1/jobs/{one}?wait=30&include=attempts").json() for one in ids]
            assert {(job["status"], job["attempt"], job["failure_count"]) for job in jobs} == {("completed", 2, 1)}
            assert len({json.dumps(job["result"]["content"]) for job in jobs}) == 1
            assert {job["attempts"][0]["error_code"] for job in jobs} == {"stale_worker"}
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(30) == 0
        direct = {"model": TEXT, "messages": [{"role": "user", "content": story["user"]}], "stream": False}
        answer = client.post("/generate", json=direct | {"max_tokens": TOKENS, "seed": 7}).json()
        assert answer["response"] == jobs[0]["result"]["content"]
