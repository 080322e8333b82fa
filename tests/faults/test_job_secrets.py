"""The password of the database is told to nobody: not in the log, not in an answer, not in an error."""

from pathlib import Path

import httpx2

from tests.faults.test_serve import serving

PASSWORD = "hunter2/secret"


def test_the_databases_password_is_in_no_log_and_no_answer(tmp_path: Path) -> None:
    # Nobody listens there: the server answers that the database is down, and goes on trying.
    url = f"postgresql://ingle:{PASSWORD.replace('/', '%2F')}@127.0.0.1:9/ingle"
    with serving(tmp_path, forked=True, INGLE_DATABASE_URL=url, INGLE_LAME_DUCK="0") as server:
        server.wait_for("no database yet")
        with httpx2.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            paths = ("/readyz", "/healthz", "/health", "/system-info", "/api/v1/jobs", "/api/v1/stats")
            answers = {path: client.get(path) for path in paths}
        assert {path: answer.status_code for path, answer in answers.items()} == {
            "/readyz": 503,
            "/healthz": 200,
            "/health": 200,
            "/system-info": 200,
            "/api/v1/jobs": 503,
            "/api/v1/stats": 503,
        }
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert server.process.stdout is not None
        said = str(server.seen) + server.process.stdout.read() + "".join(answer.text for answer in answers.values())
        assert "hunter2" not in said
