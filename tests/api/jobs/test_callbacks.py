"""Callbacks over HTTP: which are taken, what is told, what an operator sees of it and tells again."""

import json
from typing import Any
from uuid import uuid4

import pytest

from domain.job_repository import Reap
from tests.api.jobs.conftest import BODY, Office
from tests.api.problems import refused

URL = "https://hooks.example/jobs"


async def ended(office: Office, verb: str = "complete", **fields: object) -> str:
    job, token = await office.claimed(callback_url=URL, **fields)
    reports: dict[str, dict[str, Any]] = {"complete": {"result": {"n": 1}}, "fail": {"category": "bad_input"}}
    assert (await office.post(f"/jobs/{job}/{verb}", {"lease_token": token, **reports[verb]})).status_code == 200
    return job


async def told(office: Office) -> int:
    return await office.services.queue._callbacks.dispatch()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("url", ["http://hooks.example/", "ftp://x", "", "https://" + "x" * 2048])
async def test_a_callback_that_cannot_be_told_is_refused(kept_office: Office, url: str) -> None:
    answer = await kept_office.post("/jobs", BODY | {"callback_url": url})
    assert (answer.status_code, answer.json()["code"]) in ((422, "callback_refused"), (422, "validation_error"))
    assert (await kept_office.get("/jobs")).json()["jobs"] == []


async def test_a_job_that_is_asked_for_again_is_told_whatever_became_of_its_callback(kept_office: Office) -> None:
    office = kept_office
    body = BODY | {"callback_url": URL, "idempotency_key": "k"}
    job = (await office.post("/jobs", body)).json()["id"]
    office.receiver.refused = frozenset([URL])
    again = await office.post("/jobs", body)
    assert (again.status_code, again.json()["id"]) == (200, job)
    assert (await office.post("/jobs/batch", {"jobs": [body]})).json()["jobs"][0]["id"] == job
    refused(await office.post("/jobs", body | {"priority": 1}), 422, "idempotency_mismatch")
    for other in ({"idempotency_key": "other"}, {"idempotency_key": None}):
        refused(await office.post("/jobs", body | other), 422, "callback_refused")
    refused(
        await office.post("/jobs/batch", {"jobs": [body, body | {"idempotency_key": "b"}]}), 422, "callback_refused"
    )
    assert await office.kept.rows("SELECT count(*) FROM jobs") == [(1,)]


async def test_an_owner_without_a_secret_has_no_callbacks(kept_office: Office) -> None:
    body = BODY | {"callback_url": URL, "owner_service": "billing"}
    refused(await kept_office.post("/jobs", body), 422, "webhook_secret_missing")
    refused(await kept_office.post("/jobs/batch", {"jobs": [body]}), 422, "webhook_secret_missing")


async def test_each_end_is_told_with_what_was_asked_for(kept_office: Office) -> None:
    office = kept_office
    jobs = [await ended(office, include_result=True), await ended(office), await ended(office, "fail")]
    cancelled = await office.submit(callback_url=URL)
    await office.post(f"/jobs/{cancelled['id']}/cancel")
    assert await told(office) == 4
    events = {event["data"]["job_id"]: event for event in (json.loads(body) for _, _, body in office.receiver.sent)}
    assert [events[job]["type"] for job in (*jobs, cancelled["id"])] == [
        "job.completed",
        "job.completed",
        "job.failed",
        "job.cancelled",
    ]
    assert [events[job]["data"]["result"] for job in jobs] == [{"n": 1}, None, None]
    assert events[jobs[2]]["data"]["error_code"] == "bad_input"
    assert events[jobs[0]]["data"]["result_url"] == f"/api/v1/jobs/{jobs[0]}"


async def test_however_often_an_end_is_reported_it_is_told_once_and_by_its_holder(kept_office: Office) -> None:
    office = kept_office
    job, old = await office.claimed(callback_url=URL)
    await office.advance(61_000)
    assert await office.sweep(Reap()) == 1
    [again] = await office.claim()
    assert (again["worker_id"], again["attempt"]) == ("w-1", 2)
    before = (await office.get(f"/jobs/{job}")).json()
    # The same worker, by its name; of another attempt.
    refused(await office.post(f"/jobs/{job}/heartbeat", {"lease_token": old}), 409, "lease_lost")
    refused(await office.post(f"/jobs/{job}/complete", {"lease_token": old, "result": "late"}), 409, "lease_lost")
    assert (await office.get(f"/jobs/{job}")).json() == before
    assert (await office.get("/webhooks/deliveries")).json()["deliveries"] == []
    report = {"lease_token": again["lease_token"], "result": "first"}
    answers = [await office.post(f"/jobs/{job}/complete", report | more) for more in ({}, {}, {"result": "other"})]
    assert [answer.status_code for answer in answers] == [200, 200, 409]
    assert (await office.get(f"/jobs/{job}")).json()["result"] == "first"
    assert len((await office.get("/webhooks/deliveries")).json()["deliveries"]) == 1
    kinds = [event["kind"] for event in (await office.get(f"/jobs/{job}/events")).json()["events"]]
    assert kinds == ["created", "claimed", "reaped", "claimed", "completed"]


async def test_deliveries_are_listed_in_pages_and_by_filter(kept_office: Office) -> None:
    office = kept_office
    jobs = [await ended(office) for _ in range(3)]
    first = (await office.get("/webhooks/deliveries", limit=2)).json()
    rest = (await office.get("/webhooks/deliveries", limit=2, cursor=first["next_cursor"])).json()
    listed = [*first["deliveries"], *rest["deliveries"]]
    assert {one["job_id"] for one in listed} == set(jobs)
    assert rest["next_cursor"] is None
    assert {(one["event"], one["endpoint"], one["status"], one["tries"]) for one in listed} == {
        ("job.completed", URL, "queued", 0)
    }
    [mine] = (await office.get("/webhooks/deliveries", job_id=jobs[1])).json()["deliveries"]
    assert mine["job_id"] == jobs[1]
    assert (await office.get("/webhooks/deliveries", status="failed")).json()["deliveries"] == []
    assert len((await office.get("/webhooks/deliveries", owner_service="telephony")).json()["deliveries"]) == 3
    refused(await office.get("/webhooks/deliveries", status="lost"), 422, "validation_error")
    refused(await office.get("/webhooks/deliveries", limit=0), 422, "validation_error")


async def test_an_endpoint_that_is_gone_is_refused_until_a_redelivery_succeeds(kept_office: Office) -> None:
    office = kept_office
    await ended(office)
    office.receiver.answers = [410]
    await told(office)
    [gone] = (await office.get("/webhooks/deliveries")).json()["deliveries"]
    assert (gone["status"], gone["last_status"], gone["next_at"]) == ("gone", 410, None)
    refused(await office.post("/jobs", BODY | {"callback_url": URL}), 422, "callback_refused")
    office.receiver.answers = [200]
    await office.advance(1)
    again = await office.post(f"/webhooks/deliveries/{gone['id']}/redeliver")
    assert again.status_code == 202
    assert await told(office) == 1
    [done] = (await office.get("/webhooks/deliveries", status="delivered")).json()["deliveries"]
    assert (done["id"], done["tries"], done["last_status"]) == (gone["id"], 1, 200)
    await office.submit(callback_url=URL)
    refused(await office.post(f"/webhooks/deliveries/{uuid4()}/redeliver"), 404, "not_found")


async def test_an_endpoint_that_is_gone_stays_so_without_the_job_that_it_was_told_of(kept_office: Office) -> None:
    office = kept_office
    job = await ended(office)
    office.receiver.answers = [410]
    await told(office)
    assert (await office.client.delete(f"/api/v1/jobs/{job}")).status_code == 204
    refused(await office.post("/jobs", BODY | {"callback_url": URL}), 422, "callback_refused")
    [gone] = (await office.get("/webhooks/deliveries")).json()["deliveries"]
    office.receiver.answers = [200]
    assert (await office.post(f"/webhooks/deliveries/{gone['id']}/redeliver")).status_code == 202
    assert await told(office) == 1
    assert json.loads(office.receiver.sent[-1][2])["data"]["job_id"] == job
    await office.submit(callback_url=URL)


async def test_a_job_that_is_deleted_takes_its_deliveries_along(kept_office: Office) -> None:
    office = kept_office
    job = await ended(office)
    assert (await office.client.delete(f"/api/v1/jobs/{job}")).status_code == 204
    assert (await office.get("/webhooks/deliveries")).json()["deliveries"] == []
    assert await told(office) == 0
    assert office.receiver.sent == []


async def test_a_secret_is_in_no_answer(kept_office: Office) -> None:
    office = kept_office
    job = await ended(office)
    pages = [f"/jobs/{job}", "/jobs", "/webhooks/deliveries", "/stats", "/owners"]
    for page in pages:
        assert "0123456789abcdef" not in (await office.get(page)).text
