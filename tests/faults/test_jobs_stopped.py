"""Servers that are told to stop while they run jobs: once, and the rest is given back; twice, and the next heals it."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.faults.test_jobs_killed import QUICK, client_of, database, until
from tests.faults.test_serve import serving

EXIT_SECONDS = 60


class Provider:
    """A text model elsewhere: it answers with what it is asked, once a test lets that be said."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gates = {"short": threading.Event(), "long": threading.Event()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = body["messages"][-1]["content"]
                provider.asked.append(text)
                provider.gates[text].wait()
                said = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: " + json.dumps(said).encode() + b"\n\ndata: [DONE]\n\n")

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler

    def __enter__(self) -> "Provider":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self.gates.values():
            gate.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running(tmp_path: Path, settings: dict[str, str]) -> Iterator[tuple[Any, httpx2.Client]]:
    with serving(tmp_path, forked=True, **settings) as server, client_of(server) as client:
        yield server.process, client


@pytest.mark.timeout(240)
def test_jobs_of_a_server_that_stops_are_finished_given_back_or_healed(tmp_path: Path, database: str) -> None:
    with Provider() as provider:
        settings = {
            **QUICK,
            "INGLE_DATABASE_URL": database,
            "LLM_BASE_URL": provider.url,
            "INGLE_WORKER_ID": "one-name",
            "INGLE_DRAIN": "2s",
        }
        body = {"owner_service": "stops", "task_type": "llm_chat"}
        with running(tmp_path, settings) as (process, client):
            short, long = (
                client.post("/api/v1/jobs", json=body | {"input": {"user": text}}).json()["id"]
                for text in ("short", "long")
            )
            until(lambda: sorted(provider.asked) == ["long", "short"])
            process.send_signal(signal.SIGTERM)
            threading.Timer(0.5, provider.gates["short"].set).start()
            assert process.wait(EXIT_SECONDS) == 0
        with running(tmp_path, settings | {"INGLE_DRAIN": "10m"}) as (process, client):
            done = client.get(f"/api/v1/jobs/{short}").json()
            assert (done["status"], done["attempt"], done["result"]["content"]) == ("completed", 1, "short")
            until(lambda: provider.asked.count("long") == 2)
            again = client.get(f"/api/v1/jobs/{long}?include=attempts").json()
            assert (again["status"], again["attempt"], again["failure_count"]) == ("running", 2, 0)
            assert [one["outcome"] for one in again["attempts"]] == ["released"]
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            assert process.wait(EXIT_SECONDS) == 1
        provider.gates["long"].set()
        with running(tmp_path, settings) as (_, client):
            healed = client.get(f"/api/v1/jobs/{long}?wait=30&include=attempts").json()
            assert (healed["status"], healed["attempt"], healed["failure_count"]) == ("completed", 3, 1)
            assert [one["error_code"] for one in healed["attempts"]] == [None, "stale_worker", None]
            [worker] = client.get("/api/v1/workers").json()["workers"]
            assert (worker["kind"], worker["alive"]) == ("embedded", True)


def test_a_server_that_drains_still_settles_jobs_and_begins_nothing(tmp_path: Path, database: str) -> None:
    with Provider() as provider:
        settings = {
            **QUICK,
            "INGLE_DATABASE_URL": database,
            "LLM_BASE_URL": provider.url,
            "INGLE_DRAIN": "10m",
        }
        with running(tmp_path, settings) as (process, client):

            def create(task_type: str, **more: Any) -> str:
                body = {"owner_service": "stops", "task_type": task_type, "input": {"user": "short"}} | more
                answer = client.post("/api/v1/jobs", json=body)
                assert answer.status_code == 201, answer.text
                return str(answer.json()["id"])

            def claimed() -> list[dict[str, Any]]:
                wanted = {"worker_id": "elsewhere", "task_types": ["parse"], "wait_seconds": 30}
                return list(client.post("/api/v1/jobs/claim", json=wanted).json()["jobs"])

            ours, theirs = create("llm_chat"), create("parse", model_profile="parser")
            [job] = claimed()
            until(lambda: provider.asked == ["short"])
            process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/queue/status").json()["draining"])
            assert client.get("/readyz").status_code == 503
            refused = client.post("/generate", json={"model": "llm", "prompt": "Say a word."}, timeout=5)
            assert (refused.status_code, refused.json()["code"]) == (503, "server_draining")
            later = create("parse", model_profile="parser")
            assert claimed() == []
            done = {"worker_id": "elsewhere", "lease_token": job["lease_token"], "result": {"pages": 1}}
            assert client.post(f"/api/v1/jobs/{theirs}/complete", json=done).status_code == 200
            provider.gates["short"].set()
            assert process.wait(EXIT_SECONDS) == 0
        with running(tmp_path, settings) as (_, client):
            statuses = [client.get(f"/api/v1/jobs/{one}").json()["status"] for one in (ours, theirs, later)]
            assert statuses == ["completed", "completed", "pending"]


__all__ = ["database"]
