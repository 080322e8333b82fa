"""Owners over HTTP: lists, cancels, retries, deletes, events; what is set for queues and owners."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from domain.job_repository import Prune
from domain.new_job import DAY_MS
from tests.api.jobs.conftest import BODY, IN_MEMORY, Office
from tests.api.problems import refused


async def finished(office: Office, verb: str = "complete", **report: Any) -> str:
    job, token = await office.claimed()
    answer = await office.post(f"/jobs/{job}/{verb}", {"lease_token": token, **report})
    assert answer.status_code == 200, answer.text
    return job


@pytest.mark.parametrize("job_id", ["x", str(uuid4()), str(uuid4()).upper(), uuid4().hex, "%00", "9" * 300])
async def test_a_job_that_is_not_there_is_404_whatever_is_wanted_of_it(office: Office, job_id: str) -> None:
    body = {"lease_token": "t", "result": 1, "category": "timeout"}
    for verb in ("complete", "fail", "heartbeat", "release", "cancel", "retry"):
        refused(await office.post(f"/jobs/{job_id}/{verb}", body), 404, "not_found")
    refused(await office.get(f"/jobs/{job_id}"), 404, "not_found")
    refused(await office.get(f"/jobs/{job_id}/events"), 404, "not_found")
    refused(await office.client.delete(f"/api/v1/jobs/{job_id}"), 404, "not_found")


async def test_lists_are_newest_first_in_pages_and_filtered_exactly(office: Office) -> None:
    ids = [(await office.submit(owner_ref=f"r{n % 2}"))["id"] for n in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (await office.get("/jobs", limit=2, **({"cursor": cursor} if cursor else {}))).json()
        seen += [job["id"] for job in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ids[::-1]
    odd = (await office.get("/jobs", owner_ref="r1", include="input")).json()["jobs"]
    assert [job["id"] for job in odd] == [ids[3], ids[1]]
    assert (odd[0]["input"], "result" in odd[0]) == ({"user": "hi"}, False)
    assert (await office.get("/jobs", owner_ref="%")).json()["jobs"] == []
    many = await office.client.get("/api/v1/jobs?status=failed&status=pending&limit=100")
    assert len(many.json()["jobs"]) == 5
    assert (await office.get("/jobs", created_after="2199-01-01T00:00:00Z")).json()["jobs"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=4.5", "limit=x", "status=gone", "cursor=x", "include=all", "created_after=now"],
)
@IN_MEMORY
async def test_a_list_out_of_range_is_refused(office: Office, query: str) -> None:
    refused(await office.client.get(f"/api/v1/jobs?{query}"), 422, "validation_error")


async def test_cancel_by_state(office: Office) -> None:
    job = (await office.submit())["id"]
    first, again = [await office.post(f"/jobs/{job}/cancel") for _ in range(2)]
    assert (first.status_code, first.json()["status"], first.json()["changed"]) == (200, "cancelled", True)
    assert (again.status_code, again.json()["changed"]) == (200, False)
    refused(await office.post(f"/jobs/{await finished(office, result=1)}/cancel"), 409, "job_completed")
    failed = await finished(office, "fail", category="bad_input")
    refused(await office.post(f"/jobs/{failed}/cancel"), 409, "invalid_transition")


async def test_retry_by_state(office: Office) -> None:
    refused(await office.post(f"/jobs/{await finished(office, result=1)}/retry"), 409, "job_completed")
    failed = await finished(office, "fail", category="bad_input")
    again = await office.post(f"/jobs/{failed}/retry", {"max_attempts": 7})
    body = again.json()
    assert (body["status"], body["changed"], body["failure_count"], body["error_code"]) == ("pending", True, 0, None)
    assert body["max_attempts"] == 7
    assert (await office.post(f"/jobs/{failed}/retry")).json()["changed"] is False
    [running] = await office.claim()
    refused(await office.post(f"/jobs/{failed}/retry", {"force": False}), 409, "invalid_transition")
    assert (await office.post(f"/jobs/{failed}/retry")).json()["status"] == "pending"
    stale = {"lease_token": running["lease_token"], "result": 1}
    refused(await office.post(f"/jobs/{failed}/complete", stale), 409, "lease_lost")


async def test_a_job_whose_input_is_gone_cannot_run_again(kept_office: Office) -> None:
    office = kept_office
    job = await finished(office, "fail", category="bad_input")
    await office.advance(DAY_MS)
    await office.sweep(Prune(payload_ms=DAY_MS))
    shown = (await office.get(f"/jobs/{job}")).json()
    assert (shown["payload_purged"], shown["input"]) == (True, {})
    assert "input" in refused(await office.post(f"/jobs/{job}/retry"), 409, "invalid_transition")["detail"]
    done = (await office.post("/jobs/retry", {"filter": {"status": "failed"}, "limit": 10})).json()
    assert (done["matched"], done["changed"]) == (1, 0)


async def test_only_what_is_over_is_deleted(office: Office) -> None:
    job = (await office.submit())["id"]
    refused(await office.client.delete(f"/api/v1/jobs/{job}"), 409, "invalid_transition")
    await office.post(f"/jobs/{job}/cancel")
    assert (await office.client.delete(f"/api/v1/jobs/{job}")).status_code == 204
    refused(await office.get(f"/jobs/{job}"), 404, "not_found")


async def test_all_that_match_are_cancelled_and_retried(office: Office) -> None:
    ids = {(await office.submit(owner_ref="a"))["id"] for _ in range(3)}
    await office.submit(owner_ref="b")
    wish: dict[str, Any] = {"filter": {"owner_ref": "a"}, "limit": 100}
    tried = (await office.post("/jobs/cancel", wish | {"dry_run": True})).json()
    assert (tried["matched"], tried["changed"], set(tried["ids"])) == (3, 0, ids)
    done = (await office.post("/jobs/cancel", wish)).json()
    assert (done["matched"], done["changed"], set(done["ids"])) == (3, 3, ids)
    back = (await office.post("/jobs/retry", wish | {"limit": 2})).json()
    assert (back["matched"], back["changed"]) == (2, 2)
    refused(await office.post("/jobs/cancel", {"filter": {}, "limit": 1}), 422, "validation_error")
    refused(await office.post("/jobs/cancel", {"filter": {"owner_ref": "a"}}), 422, "validation_error")


async def test_a_look_waits_for_the_end(office: Office) -> None:
    job, token = await office.claimed()
    waiting = asyncio.create_task(office.get(f"/jobs/{job}", wait=5))
    await asyncio.sleep(0.05)
    await office.post(f"/jobs/{job}/complete", {"lease_token": token, "result": 1})
    assert (await asyncio.wait_for(waiting, 20)).json()["status"] == "completed"
    refused(await office.get(f"/jobs/{job}", wait=31), 422, "validation_error")


async def test_events_are_listed_and_streamed_to_the_end(office: Office) -> None:
    job = await finished(office, result=1)
    events = (await office.get(f"/jobs/{job}/events")).json()["events"]
    assert [event["kind"] for event in events] == ["created", "claimed", "completed"]
    assert [event["to_status"] for event in events] == ["pending", "running", "completed"]
    path = f"/api/v1/jobs/{job}/events"
    headers = {"accept": "text/event-stream", "last-event-id": str(events[0]["seq"])}
    stream = (await office.client.get(path, headers=headers)).text
    assert [line for line in stream.splitlines() if line.startswith("id: ")] == [
        f"id: {event['seq']}" for event in events[1:]
    ]
    refused(await office.client.get(path, headers={"last-event-id": "-1"}), 422, "validation_error")


async def test_a_queue_is_paused_and_limited(office: Office) -> None:
    await office.submit()
    profile = BODY["model_profile"]
    patched = await office.client.patch(f"/api/v1/queues/{profile}", json={"paused": True, "max_running": 2})
    assert (patched.json()["paused"], patched.json()["max_running"], patched.json()["pending"]) == (True, 2, 1)
    assert await office.claim() == []
    [job] = (await office.get("/jobs")).json()["jobs"]
    assert job["phase"] == "held"
    patched = await office.client.patch(f"/api/v1/queues/{profile}", json={"paused": False})
    assert (patched.json()["paused"], patched.json()["max_running"]) == (False, 2)
    assert [queue["model_profile"] for queue in (await office.get("/queues")).json()["queues"]] == [profile]
    refused(await office.client.patch("/api/v1/queues/a%20b", json={}), 422, "validation_error")


async def test_an_owner_is_limited(office: Office) -> None:
    patched = await office.client.patch("/api/v1/owners/telephony", json={"max_pending": 1, "priority_cap": 2})
    assert (patched.json()["max_pending"], patched.json()["weight"]) == (1, 1.0)
    refused(await office.post("/jobs", BODY | {"priority": 3}), 422, "priority_above_cap")
    await office.submit()
    refused(await office.post("/jobs", BODY), 429, "quota_exceeded")
    refused(await office.client.patch("/api/v1/owners/telephony", json={"weight": 1000}), 422, "validation_error")
