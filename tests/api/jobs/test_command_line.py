"""`ingle jobs` against a running server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.jobs.conftest import BODY, Office
from tests.api.world import serving
from tests.unit.command_line import run

pytestmark = [
    pytest.mark.usefixtures("bare_environment"),
    pytest.mark.parametrize("where", ["sqlite"], indirect=True),
]
Captured = pytest.CaptureFixture[str]
INPUT = json.dumps(BODY["input"])


class Terminal:
    """Types commands and reads what they print."""

    def __init__(self, url: str, captured: Captured) -> None:
        self._url = url
        self._captured = captured

    async def type(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code of `ingle jobs ARGUMENTS`, and what it wrote to its two streams."""
        code = await asyncio.to_thread(run, "jobs", *arguments, "--url", self._url)
        said = self._captured.readouterr()
        return code, said.out, said.err

    async def submit(self, *arguments: str) -> str:
        """The id of a new job."""
        code, out, err = await self.type("submit", "llm_chat", "--input", INPUT, *arguments)
        assert code == 0, err
        return out.strip()


@pytest.fixture
async def terminal(office: Office, capsys: Captured) -> AsyncIterator[Terminal]:
    async with serving(office.world.app(jobs=office.services)) as server:
        yield Terminal(f"http://{server.host}:{server.port}", capsys)


async def test_a_job_is_submitted_listed_and_shown(office: Office, terminal: Terminal) -> None:
    job = await terminal.submit("--owner", "telephony", "--priority", "3", "--key", "k")
    assert await terminal.submit("--owner", "telephony", "--priority", "3", "--key", "k") == job
    code, out, _ = await terminal.type("list", "--status", "pending", "--owner", "telephony")
    assert code == 0
    assert job in out
    assert "ready" in out
    assert job not in (await terminal.type("list", "--status", "failed"))[1]
    code, out, _ = await terminal.type("show", job)
    shown = json.loads(out)
    assert (code, shown["id"], shown["priority"], shown["input"]) == (0, job, 3, BODY["input"])
    assert shown["attempts"] == []


async def test_whoever_waits_is_shown_the_end_and_fails_with_the_job(office: Office, terminal: Terminal) -> None:
    for report, code in (({"result": 7}, 0), ({"category": "bad_input"}, 1)):
        waiting = asyncio.create_task(terminal.type("submit", "llm_chat", "--input", INPUT, "--wait"))
        found: list[dict[str, Any]] = []
        while not found:
            found = await office.claim(wait_seconds=1)
        verb = "complete" if "result" in report else "fail"
        await office.post(f"/jobs/{found[0]['id']}/{verb}", {"lease_token": found[0]["lease_token"], **report})
        ended, out, _ = await waiting
        assert ended == code
        assert json.loads(out)["status"] == ("failed" if code else "completed")


async def test_jobs_are_cancelled_and_retried_by_their_ids(office: Office, terminal: Terminal) -> None:
    jobs = [await terminal.submit() for _ in range(2)]
    code, out, _ = await terminal.type("cancel", *jobs)
    assert (code, out.splitlines()) == (0, [f"{job} cancelled" for job in jobs])
    code, out, _ = await terminal.type("retry", jobs[0])
    assert (code, out.splitlines()) == (0, [f"{jobs[0]} ready"])
    [running] = await office.claim()
    code, _, err = await terminal.type("retry", running["id"])
    assert code == 1
    assert "force" in err


async def test_figures_are_printed(terminal: Terminal) -> None:
    await terminal.submit()
    code, out, _ = await terminal.type("stats")
    assert (code, json.loads(out)["jobs"]["pending"]) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("show", "01991f0e-6a40-7c31-9d55-0c1f6f2f7a10"), 1, "job"),
        (("cancel", "nonsense"), 1, "job"),
        (("submit", "llm_chat"), 2, "--input"),
        (("submit", "llm_chat", "--input", "{"), 2, "JSON"),
        (("submit", "llm_chat", "--input", "[]"), 1, "input"),
        (("submit", "a b", "--input", "{}"), 1, "name"),
        (("submit", "llm_chat", "--input", "{}", "--priority", "11"), 2, "--priority"),
        (("list", "--status", "gone"), 1, "pending"),
        (("list", "--limit", "0"), 2, "--limit"),
    ],
)
async def test_a_slip_is_told_with_what_to_do(
    terminal: Terminal, arguments: tuple[str, ...], code: int, word: str
) -> None:
    ended, out, err = await terminal.type(*arguments)
    assert (ended, out) == (code, "")
    assert word in err
    assert "Traceback" not in err


async def test_a_server_that_is_not_there_is_named(office: Office, capsys: Captured) -> None:
    code, _, err = await Terminal("http://127.0.0.1:9", capsys).type("stats")
    assert code == 1
    assert "http://127.0.0.1:9" in err
