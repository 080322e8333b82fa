"""Markers: a need that is not met skips its test with the reason, or fails it where it is required."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import needs

ROOT = Path(__file__).parents[2]


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A port where whoever connects gets `reply`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


Check = Callable[[str, int], str | None]
TRUSTING, ASKING = b"R\0\0\0\x08\0\0\0\0", b"R\0\0\0\x08\0\0\0\x03"


@pytest.mark.parametrize(
    ("check", "reply"),
    [
        (needs.missing_redis, b"+PONG\r\n"),
        (needs.missing_rabbitmq, b"\x01\x00\x00"),
        (needs.missing_postgres, TRUSTING),
    ],
    ids=["redis", "rabbitmq", "postgres"],
)
def test_a_service_that_answers_as_it_should_is_there(check: Check, reply: bytes) -> None:
    with answering(reply) as port:
        assert check("127.0.0.1", port) is None


@pytest.mark.parametrize(
    ("check", "reply", "reason"),
    [
        (needs.missing_redis, b"-NOAUTH", "is not an open Redis"),
        (needs.missing_rabbitmq, b"AMQP\x00\x00\x09\x01", "is not RabbitMQ"),
        (needs.missing_postgres, ASKING, "refuses database test"),
        (needs.missing_postgres, b"HTTP/1.1 400", "refuses database test"),
    ],
)
def test_a_service_that_answers_otherwise_is_missing(check: Check, reply: bytes, reason: str) -> None:
    with answering(reply) as port:
        assert reason in (check("127.0.0.1", port) or "")


@pytest.mark.parametrize("check", [needs.missing_redis, needs.missing_rabbitmq, needs.missing_postgres])
def test_a_service_that_does_not_listen_is_missing(check: Check) -> None:
    assert "refused" in (check("127.0.0.1", closed_port()) or "")


def test_required_needs_are_named_with_commas_and_must_exist() -> None:
    assert needs.required({needs.REQUIRE: "weights, gpu,"}) == {"weights", "gpu"}
    assert needs.required({}) == frozenset()
    with pytest.raises(ValueError, match="names gqu; there are"):
        needs.required({needs.REQUIRE: "gqu"})


def pytest_says(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What pytest says of one test that needs a browser, on a machine without one."""
    (folder / "test_one.py").write_text("import pytest\n@pytest.mark.browser\ndef test_one(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    everything = {**os.environ, "PATH": str(folder), "PYTHONPATH": str(ROOT), needs.REQUIRE: "", **environ}
    return subprocess.run([*command, str(folder)], env=everything, capture_output=True, text=True, check=False)


def test_an_unmet_need_skips_and_the_summary_says_why(tmp_path: Path) -> None:
    result = pytest_says(tmp_path, {})
    assert result.returncode == 0, result.stdout
    assert "1 skipped: needs browser: none of chromium, chromium-browser, google-chrome is installed" in result.stdout


def test_an_unmet_need_that_is_required_fails(tmp_path: Path) -> None:
    result = pytest_says(tmp_path, {needs.REQUIRE: "browser"})
    assert result.returncode == 1
    assert "INGLE_TEST_REQUIRE names browser, but none of chromium" in result.stdout
    assert "nothing was skipped" in result.stdout


def test_a_wrong_name_of_a_need_is_a_usage_error(tmp_path: Path) -> None:
    result = pytest_says(tmp_path, {needs.REQUIRE: "browsers"})
    assert result.returncode == 4
    assert "INGLE_TEST_REQUIRE names browsers" in result.stderr
