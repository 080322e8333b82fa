"""`ingle serve` with keys: where it listens, what it says, and a file of keys that changes."""

import signal
import time
from pathlib import Path

import httpx2
import pytest

from infrastructure.key_file import change_keys
from tests.faults.test_serve import Running, serving
from tests.unit.command_line import run
from tests.unit.test_keys import DIGEST

OPEN = "ANYBODY in this network may use this server: it asks for no key"


def status(server: Running, key: str) -> int:
    return httpx2.get(f"{server.url}/version", headers={"x-api-key": key}, trust_env=False).status_code


def test_n7_keys_open_the_server_to_the_network_and_change_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ingle(*arguments: str) -> str:
        code = run(*arguments)
        told = capsys.readouterr()
        return told.out.strip() if code == 0 else told.err

    path = tmp_path / "keys"
    monkeypatch.setenv("INGLE_API_KEYS_FILE", str(path))
    key = ingle("keys", "new", "boss", "--scope", "admin")
    with serving(tmp_path, INGLE_API_KEYS_FILE=str(path)) as server:
        assert server.url.startswith("http://0.0.0.0:")
        assert OPEN not in [record["event"] for record in server.seen]
        assert [status(server, one) for one in ("", "wrong", key)] == [401, 401, 200]
        evil = httpx2.get(f"{server.url}/version", headers={"x-api-key": key, "host": "evil.example"}, trust_env=False)
        assert evil.status_code == 200
        second = ingle("keys", "new", "second", "--scope", "infer,jobs")
        assert server.wait_for("keys were read again")["keys"] == 2
        assert status(server, second) == 200
        monkeypatch.setenv("INGLE_API_KEY", second)
        assert "throughput" in ingle("jobs", "stats", "--url", server.url)
        monkeypatch.setenv("INGLE_API_KEY", "wrong")
        assert "INGLE_API_KEY" in ingle("jobs", "stats", "--url", server.url)
        path.chmod(0o666)
        assert "others may write" in server.wait_for("the keys stay as they were")["reason"]
        assert status(server, key) == 200
        path.chmod(0o600)
        change_keys(path, lambda _: [f"other:admin:{DIGEST}"])
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while status(server, key) != 401:
            assert time.monotonic() < until
        assert status(server, "secret") == 200
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopped")
        assert not [one for one in (key, second, "secret", DIGEST) if one in str(server.seen)]


def test_n7_an_open_server_without_keys_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, HTTP_HOST="0.0.0.0") as server:
        advice = server.wait_for(OPEN)["advice"]
        assert all(word in advice for word in ("ingle keys new", "127.0.0.1", "proxy"))
        assert status(server, "") == 200
        rebound = httpx2.get(f"{server.url}/version", headers={"host": "evil.example"}, trust_env=False)
        assert rebound.status_code == 403
