"""What happens at once over HTTP: cancels against results, limits against crashes, hundreds who wait for one job."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from domain.job_repository import Promote, Reap
from tests.api.jobs.conftest import BODY, Office
from tests.api.problems import refused
from tests.api.world import serving, until

PROFILE = BODY["model_profile"]


async def test_a_cancel_that_races_a_result_ends_in_one_state(kept_office: Office) -> None:
    office = kept_office
    jobs = [{"input": {"n": number}} for number in range(100)]
    await office.post("/jobs/batch", {"defaults": BODY, "jobs": jobs})
    held = await office.claim(limit=100)

    async def race(job: dict[str, Any]) -> None:
        report = {"lease_token": job["lease_token"], "result": {"n": 1}}
        calls = [office.post(f"/jobs/{job['id']}/cancel"), office.post(f"/jobs/{job['id']}/complete", report)]
        cancel, complete = await asyncio.gather(*calls)
        # A result wins over a cancel that was only asked for.
        assert complete.status_code == 200, complete.text
        assert cancel.status_code in (202, 409)
        shown = (await office.get(f"/jobs/{job['id']}")).json()
        assert (shown["status"], shown["result"]) == ("completed", {"n": 1})

    await asyncio.gather(*map(race, held))
    counts = (await office.get("/stats")).json()["jobs"]
    assert (counts["completed"], counts["cancelled"], counts["running"]) == (100, 0, 0)


async def test_a_cancelled_job_ends_with_its_worker_s_next_word(kept_office: Office) -> None:
    office = kept_office
    job, token = await office.claimed()
    assert (await office.post(f"/jobs/{job}/cancel")).status_code == 202
    done = await office.post(f"/jobs/{job}/release", {"lease_token": token})
    assert (done.json()["status"], done.json()["result"]) == ("cancelled", None)


async def test_no_more_run_than_a_queue_may_though_their_holder_crashes(kept_office: Office) -> None:
    office = kept_office
    await office.client.patch(f"/api/v1/queues/{PROFILE}", json={"max_running": 2})
    jobs: list[dict[str, Any]] = [{"input": {}} for _ in range(12)]
    await office.post("/jobs/batch", {"defaults": BODY, "jobs": jobs})
    seen: list[int] = []

    async def work(number: int) -> None:
        for job in await office.claim(worker_id=f"w-{number}", limit=4):
            await asyncio.sleep(0.002)
            await office.post(f"/jobs/{job['id']}/complete", {"lease_token": job["lease_token"], "result": 1})

    async def look() -> None:
        while True:
            # What is in the rows at one moment, whatever their holders know of it.
            [(running,)] = await office.kept.rows("SELECT count(*) FROM jobs WHERE status='running'")
            seen.append(running)
            await asyncio.sleep(0.001)

    looking = asyncio.create_task(look())
    while (await office.get("/stats")).json()["jobs"]["completed"] < 12:
        await asyncio.gather(*map(work, range(20)))
    looking.cancel()
    assert max(seen) == 2
    assert len(seen) > 12
    await office.post("/jobs/batch", {"defaults": BODY, "jobs": jobs})
    crashed = await office.claim(worker_id="crashes", limit=4)
    assert len(crashed) == 2
    assert await office.claim(worker_id="next") == []
    await office.advance(60_001)
    assert await office.sweep(Reap()) == 2
    assert len(await office.claim(worker_id="next", limit=4)) == 2


async def test_a_hung_job_that_beats_is_reaped_at_its_deadline(kept_office: Office) -> None:
    office = kept_office
    job, token = await office.claimed(timeout_seconds=90)
    beat = {"lease_token": token}
    await office.advance(50_000)
    first = (await office.post(f"/jobs/{job}/heartbeat", beat)).json()
    assert (first["cancel_requested"], first["lease_expires_at"]) == (False, first["deadline_at"])
    await office.advance(40_000)
    late = (await office.post(f"/jobs/{job}/heartbeat", beat)).json()
    assert (late["cancel_requested"], late["cancel_reason"]) == (True, "timeout")
    assert late["lease_expires_at"] == first["lease_expires_at"]
    await office.advance(1)
    assert await office.sweep(Reap()) == 1
    refused(await office.post(f"/jobs/{job}/heartbeat", beat), 409, "lease_lost")
    shown = (await office.get(f"/jobs/{job}", include="attempts")).json()
    assert (shown["status"], shown["phase"]) == ("pending", "retry_wait")
    assert [(one["outcome"], one["error_code"]) for one in shown["attempts"]] == [("timeout", "timeout")]


async def test_of_five_hundred_who_wait_one_gets_the_job(kept_office: Office) -> None:
    office = kept_office
    waiting = [
        asyncio.create_task(office.claim(worker_id=f"w-{number}", model_profiles=[PROFILE], wait_seconds=30))
        for number in range(500)
    ]
    desk = office.services.desk
    await until(lambda: len(desk._line) == 500)
    asked_at = time.monotonic()
    job = await office.submit()
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    # 100 ms on a machine of its own; here the tests have their neighbours.
    assert time.monotonic() - asked_at < 3
    assert [[one["id"] for one in task.result()] for task in done] == [[job["id"]]]
    desk.stop()
    answers = await asyncio.gather(*waiting)
    assert sorted(map(len, answers)) == [0] * 499 + [1]
    assert not desk._line


async def test_those_who_left_the_line_are_given_nothing(kept_office: Office) -> None:
    office = kept_office
    async with serving(office.world.app(jobs=office.services)) as server:
        head = b"POST /api/v1/jobs/claim HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        body = b'{"worker_id": "w", "wait_seconds": 30}'
        writers = []
        for _ in range(20):
            _, writer = await server.connect()
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            writers.append(writer)
        line = office.services.desk._line
        await until(lambda: len(line) == 20)
        for writer in writers:
            writer.close()
        await until(lambda: not line)
        job = await office.submit()
        assert [one["id"] for one in await office.claim()] == [job["id"]]


async def test_deferred_jobs_are_promoted_when_due_in_the_order_of_their_priority(kept_office: Office) -> None:
    office = kept_office
    items = [{"input": {}, "delay_seconds": 5, "priority": number % 3} for number in range(9)]
    await office.post("/jobs/batch", {"defaults": BODY, "jobs": items})
    ready = (await office.submit(priority=-1))["id"]
    assert [job["id"] for job in await office.claim(limit=10)] == [ready]
    await office.advance(5_000)
    assert await office.sweep(Promote()) == 9
    assert [job["priority"] for job in await office.claim(limit=10)] == [2, 2, 2, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_clocks_of_servers_that_are_wrong_free_nothing_and_age_nothing(kept_office: Office, skew: float) -> None:
    office = kept_office
    there = office.services.clock

    class WrongClock:
        def monotonic(self) -> float:
            return there.monotonic()

        def now(self) -> float:
            return there.now() + skew

    wrong = replace(office.services, clock=WrongClock())
    async with serving(office.world.app(jobs=wrong)) as other:
        job, token = await office.claimed()
        await office.submit()
        for client in (office.client, other.client):
            shown = (await client.get(f"/api/v1/jobs/{job}")).json()
            assert (shown["status"], shown["phase"]) == ("running", "leased")
            stats = (await client.get("/api/v1/stats")).json()
            ages = [stats["queue"]["oldest_ready_age_seconds"], stats["dispatch"]["oldest_undispatched_age"]]
            assert all(0 <= age < 60 for age in ages)
        assert await office.sweep(Reap()) == 0
        beat = await other.client.post(f"/api/v1/jobs/{job}/heartbeat", json={"lease_token": token})
        assert beat.status_code == 200
        # The database's own clock steps back: leases last longer, nothing is negative.
        await office.advance(-30_000)
        assert await office.sweep(Reap()) == 0
        done = await office.post(f"/jobs/{job}/complete", {"lease_token": token, "result": 1})
        assert done.json()["status"] == "completed"
        stats = (await office.get("/stats")).json()
        assert stats["queue"]["oldest_ready_age_seconds"] >= 0
        assert all(value is None or value >= 0 for span in stats["latency"].values() for value in span.values())
