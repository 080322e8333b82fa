"""Results of many megabytes: the event loop's thread has no part in reading and writing them.

What is measured is the processor time that this thread takes between two turns of the loop, not the time on the wall,
so whatever else the machine does has no part in it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest

from tests.api.jobs.conftest import BODY, Office
from tests.api.problems import refused

# About 6 MiB in pieces as small as the words of a transcript. On one thread its canonical form alone takes 0.2 s.
RESULT = {"segments": [{"word": f"w{n}", "start": n / 8, "end": None, "sure": True} for n in range(110_000)]}
REPORT = orjson.dumps({"result": RESULT})
MOST_SECONDS = 0.1
JSON = {"content-type": "application/json"}


class Turns:
    """The longest that the loop's thread worked before it had a turn again, in seconds of its processor time."""

    longest = 0.0

    async def watch(self) -> None:
        """Look at each turn of the loop."""
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest, before = max(self.longest, now - before), now


@asynccontextmanager
async def turns() -> AsyncIterator[Turns]:
    """What the block made of the loop's turns."""
    seen = Turns()
    watching = asyncio.create_task(seen.watch())
    await asyncio.sleep(0)
    yield seen
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


def said(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text[:200]
    return orjson.loads(answer.content)


async def sent(office: Office, job: str, token: str, body: bytes = REPORT) -> httpx2.Response:
    headers = JSON | {"x-lease-token": token}
    return await office.client.post(f"/api/v1/jobs/{job}/complete", content=body, headers=headers)


async def test_a_large_result_is_kept_told_again_and_shown_beside_the_loop(kept_office: Office) -> None:
    office = kept_office
    job, token = await office.claimed(idempotency_key="k", dedupe_key="d")
    async with turns() as seen:
        first = await sent(office, job, token)
        again = await sent(office, job, token)
        shown = await office.get(f"/jobs/{job}", include="attempts")
        listed = await office.get("/jobs", include="result")
        task = await office.client.get(f"/task/{job}")
        replayed = await office.post("/jobs", BODY | {"idempotency_key": "k", "dedupe_key": "d"})
        events = await office.get(f"/jobs/{job}/events")
        cancelled = await office.post(f"/jobs/{job}/cancel")
        other = await sent(office, job, token, orjson.dumps({"result": {**RESULT, "more": 1}}))
    assert seen.longest < MOST_SECONDS
    assert [said(one)["replayed"] for one in (first, again)] == [False, True]
    assert [said(one)["result"] for one in (first, again, shown, task, replayed)] == [RESULT] * 5
    assert said(listed)["jobs"][0]["result"] == RESULT
    assert len(said(events)["events"]) == 3
    refused(cancelled, 409, "job_completed")
    refused(other, 409, "already_completed")


@pytest.mark.parametrize("size", [(256 << 10) - 20, (256 << 10) + 20])
async def test_a_result_is_the_same_whether_it_is_large_or_not(office: Office, size: int) -> None:
    """Nothing of a number, a letter or the order of keys is lost on the way."""
    result: dict[str, Any] = {
        "z": 'é\u2028"\\/\b',
        "a": [1.5, 1e16, 1e-7, -0.0, 2**64 - 1, -(2**63), None, True, {}, []],
        "x": "y" * size,
    }
    job, token = await office.claimed()
    body = orjson.dumps({"result": result})
    first, again = [await sent(office, job, token, body) for _ in range(2)]
    assert [said(one)["replayed"] for one in (first, again)] == [False, True]
    shown = said(await office.get(f"/jobs/{job}"))["result"]
    assert (shown, list(shown)) == (result, ["z", "a", "x"])
    assert str(shown["a"][:6]) == str(result["a"][:6])


async def test_too_large_a_result_is_refused_beside_the_loop_too(office: Office) -> None:
    job, token = await office.claimed()
    large = orjson.dumps({"result": {**RESULT, "more": "x" * (4 << 20)}})
    async with turns() as seen:
        answer = await sent(office, job, token, large)
    refused(answer, 413, "payload_too_large")
    assert seen.longest < MOST_SECONDS
    assert said(await office.get(f"/jobs/{job}"))["status"] == "running"
