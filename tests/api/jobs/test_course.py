"""The course of a job over HTTP: scheduled, expired, followed while it runs, put off by its owner, changed in bulk."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from api.times import rfc3339
from domain.job_repository import Expire, Promote
from tests.api.jobs.conftest import BODY, Office
from tests.api.world import serving
from tests.databases import EPOCH_MS


class QuickClock:
    """Time that goes by fifty times as fast."""

    def monotonic(self) -> float:
        """The loop's own time, and more of it."""
        return 50 * asyncio.get_running_loop().time()

    def now(self) -> float:
        """As the keeper's clock stands when a test begins."""
        return EPOCH_MS / 1000


async def test_a_job_waits_for_its_time_and_not_beyond_it(office: Office) -> None:
    due, over = rfc3339(EPOCH_MS / 1000 + 10), rfc3339(EPOCH_MS / 1000 + 30)
    job = await office.submit(available_at=due, expires_in_seconds=20)
    assert (job["phase"], job["available_at"], job["expires_at"]) == ("scheduled", due, over)
    assert await office.claim() == []
    await office.advance(10_000)
    assert await office.sweep(Promote()) == 1
    assert (await office.get(f"/jobs/{job['id']}")).json()["phase"] == "ready"
    await office.advance(20_000)
    assert await office.claim() == []
    assert await office.sweep(Expire()) == 1
    ended = (await office.get(f"/jobs/{job['id']}")).json()
    assert (ended["status"], ended["error_code"], ended["failure_count"]) == ("failed", "expired", 0)
    again = (await office.post(f"/jobs/{job['id']}/retry", {"delay_seconds": 60})).json()
    assert (again["status"], again["phase"], again["expires_at"]) == ("pending", "scheduled", None)
    assert again["available_at"] == rfc3339(EPOCH_MS / 1000 + 90)


async def test_who_follows_a_job_is_told_its_progress_and_its_end(office: Office) -> None:
    job, token = await office.claimed()
    held = {"lease_token": token}
    quick = replace(office.services, clock=QuickClock())
    told: list[tuple[str, Any]] = []
    async with serving(office.world.app(jobs=quick)) as server:
        path, headers = f"/api/v1/jobs/{job}/events", {"accept": "text/event-stream"}
        async with server.client.stream("GET", path, headers=headers) as answer:
            lines = answer.aiter_lines()
            for done in (1, 2):
                await office.post(f"/jobs/{job}/heartbeat", held | {"progress": {"current": done}})
                while not (told and told[-1] == ("progress", {"current": done})):
                    told.append(await event_of(lines))
            await office.post(f"/jobs/{job}/complete", held | {"result": 1})
            told.append(await event_of(lines))
            assert [line async for line in lines if line and not line.startswith(":")] == []
    assert [kind for kind, _ in told] == ["created", "claimed", "progress", "progress", "completed"]


async def event_of(lines: AsyncIterator[str]) -> tuple[str, Any]:
    """The kind of the next event, and the progress that it tells."""
    async for line in lines:
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            return event["kind"], event.get("progress")
    raise AssertionError("the stream ended")


async def test_a_change_of_more_than_a_step_is_a_change_of_all(kept_office: Office) -> None:
    office = kept_office
    items: list[dict[str, Any]] = [{"owner_ref": "many", "input": {}}] * 1100
    batch = (await office.post("/jobs/batch", {"defaults": BODY, "jobs": items})).json()["batch_id"]
    wish = {"filter": {"batch_id": batch, "status": ["pending"]}, "limit": 1050}
    tried = (await office.post("/jobs/cancel", wish | {"dry_run": True})).json()
    assert (tried["matched"], tried["changed"], len(tried["ids"])) == (1050, 0, 100)
    done = (await office.post("/jobs/cancel", wish)).json()
    assert (done["matched"], done["changed"], done["ids"]) == (1050, 1050, tried["ids"])
    counts = (await office.get("/stats")).json()["jobs"]
    assert (counts["pending"], counts["cancelled"]) == (50, 1050)
    back = (await office.post("/jobs/retry", {"filter": {"batch_id": [batch]}, "limit": 10_000})).json()
    assert (back["matched"], back["changed"]) == (1100, 1050)
