"""Results that are larger than the operator allows: the worker in a server and `ingle worker` fail their jobs."""

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.test_jobs_killed import QUICK, client_of, working
from tests.faults.test_jobs_stopped import Provider
from tests.faults.test_serve import serving


@pytest.mark.parametrize("executor", ["embedded", "none"])
def test_a_result_that_is_too_large_fails_its_job_at_once_wherever_it_is_run(tmp_path: Path, executor: str) -> None:
    """With the executor `none` the job is run by `ingle worker`."""
    said = {"short": "completed", "x" * 2000: "failed"}
    with Provider() as provider, ExitStack() as stack:
        provider.gates = {text: threading.Event() for text in said}
        for gate in provider.gates.values():
            gate.set()
        settings = {
            "INGLE_DATABASE_URL": f"sqlite:///{tmp_path / 'jobs.db'}",
            "INGLE_JOBS_MAX_RESULT_BYTES": "1024",
            "LLM_BASE_URL": provider.url,
        }
        server = serving(tmp_path, forked=True, INGLE_JOBS_EXECUTOR=executor, **QUICK, **settings)
        client = stack.enter_context(client_of(stack.enter_context(server)))
        if executor == "none":
            stack.enter_context(working(tmp_path / "worker", **settings))
        body = {"owner_service": "large", "task_type": "llm_chat"}
        ids = [client.post("/api/v1/jobs", json=body | {"input": {"user": text}}).json()["id"] for text in said]
        jobs = [client.get(f"/api/v1/jobs/{one}", params={"wait": 30}).json() for one in ids]
        assert [(job["status"], job["attempt"]) for job in jobs] == [(status, 1) for status in said.values()]
        assert (jobs[1]["error_code"], jobs[1]["result"]) == ("payload_too_large", None)
