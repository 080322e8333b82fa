"""New jobs over HTTP: what is kept, what is refused, and with which code."""

import asyncio
import json
from typing import Any

import pytest

from api.docs_page import schema_of
from api.jobs.job_body import JobBody
from application.job_queue import new_job_id
from tests.api.jobs.conftest import BODY, IN_MEMORY, Office
from tests.api.problems import refused


async def test_a_job_is_answered_as_it_is_kept(office: Office) -> None:
    response = await office.post("/jobs", {**BODY, "owner_ref": "a/42", "metadata": {"k": "v"}, "unknown": 1})
    job = response.json()
    assert (response.status_code, response.headers["location"]) == (201, f"/api/v1/jobs/{job['id']}")
    assert (job["status"], job["phase"], job["attempt"], job["max_attempts"]) == ("pending", "ready", 0, 3)
    assert (job["input"], job["metadata"], job["result"]) == ({"user": "hi"}, {"k": "v"}, None)
    assert job["available_at"].endswith("Z")
    assert len(job["id"]) == 36
    assert "lease_token" not in job
    assert (await office.get(f"/jobs/{job['id']}")).json() == job


def test_ids_of_later_jobs_sort_later() -> None:
    ids = [new_job_id(1_800_000_000 + n / 1000) for n in range(5)]
    assert sorted(ids) == ids
    assert {(one[14], one[19] in "89ab") for one in ids} == {("7", True)}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"priority": "4"}, "priority"),
        ({"priority": 4.0}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": None}, "priority"),
        ({"priority": 11}, "priority"),
        ({"owner_service": ""}, "owner_service"),
        ({"owner_service": "a b"}, "owner_service"),
        ({"owner_ref": "a\nb"}, "owner_ref"),
        ({"task_type": "-x"}, "task_type"),
        ({"input": [1]}, "input"),
        ({"input": None}, "input"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"delay_seconds": 1, "available_at": "2099-01-01T00:00:00Z"}, "available_at"),
        ({"available_at": "tomorrow"}, "available_at"),
        ({"available_at": "2099-01-01T00:00:00Z"}, "available_at"),
        ({"expires_in_seconds": 0}, "expires_in_seconds"),
        ({"dedupe_key": "ä"}, "dedupe_key"),
        ({"on_conflict": "skip"}, "on_conflict"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"cost": 0}, "cost"),
        ({"retry": {"base_seconds": 0}}, "retry.base_seconds"),
        ({"retry": {"retry_codes": ["Upper"]}}, "retry.retry_codes.0"),
        ({"task_type": "call_analysis", "model_profile": None}, "model_profile"),
        ({"model_profile": ""}, "model_profile"),
    ],
)
@IN_MEMORY
async def test_a_wrong_field_is_named(office: Office, change: dict[str, Any], field: str) -> None:
    problem = refused(await office.post("/jobs", BODY | change), 422, "validation_error")
    assert [".".join(map(str, error["loc"])) for error in problem["errors"]] == [f"body.{field}"]
    assert (await office.get("/jobs")).json()["jobs"] == []


@IN_MEMORY
async def test_the_ranges_of_the_description_are_those_that_are_kept(office: Office) -> None:
    fields = schema_of(JobBody)["properties"]
    ranges = {name: (field["minimum"], field["maximum"]) for name, field in fields.items() if "minimum" in field}
    assert len(ranges) == 6
    for name, (least, most) in ranges.items():
        for value in (least, most):
            assert (await office.post("/jobs", BODY | {name: value})).status_code == 201, name
        for value in (least - 1, most + 1):
            refused(await office.post("/jobs", BODY | {name: value}), 422, "validation_error")


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "missing_body"),
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"input": NaN}', "application/json", 400, "invalid_json"),
        (b'{"input": "\xff"}', "application/json", 400, "invalid_json"),
        (b"\xef\xbb\xbf{}", "application/json", 400, "invalid_json"),
        (b'{"input": {"a": 1e999}}', "application/json", 422, "invalid_value"),
        (b'{"input": {"a": "\\u0000"}}', "application/json", 422, "invalid_value"),
        (b'{"input": {"a": "\\ud800"}}', "application/json", 422, "invalid_value"),
        (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", 422, "invalid_value"),
        (b'{"input": ' + b"[" * 70 + b"]" * 70 + b"}", "application/json", 422, "invalid_value"),
        (b'{"input": {"a": 123456789012345678901234}}', "application/json", 422, "invalid_value"),
        (b"[]", "application/json", 422, "validation_error"),
        (json.dumps(BODY).encode(), "text/plain", 415, "unsupported_media_type"),
        (b'{"input": {"a": "' + b"x" * (1 << 20) + b'"}}', "application/json", 422, "validation_error"),
        (b'{"input": {"a": "' + b"x" * (2 << 20) + b'"}}', "application/json", 413, "payload_too_large"),
    ],
)
@IN_MEMORY
async def test_a_body_that_cannot_be_kept_is_refused(
    office: Office, raw: bytes, content_type: str, status: int, code: str
) -> None:
    response = await office.client.post("/api/v1/jobs", content=raw, headers={"content-type": content_type})
    refused(response, status, code)


async def test_an_input_above_its_limit_is_too_large_and_one_at_it_is_not(office: Office) -> None:
    full = {"a": "x" * ((1 << 20) - len('{"a":""}'))}
    assert (await office.post("/jobs", BODY | {"input": full})).status_code == 201
    refused(await office.post("/jobs", BODY | {"input": {"a": full["a"] + "x"}}), 413, "payload_too_large")
    refused(await office.post("/jobs", BODY | {"rest": "x" * (65 << 10)}), 413, "payload_too_large")


async def test_of_duplicate_keys_the_last_counts(office: Office) -> None:
    raw = json.dumps(BODY).encode()[:-1] + b', "priority": 1, "priority": 2}'
    response = await office.client.post("/api/v1/jobs", content=raw, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["priority"]) == (201, 2)


async def test_a_key_replays_its_job_and_no_other(office: Office) -> None:
    answers = await asyncio.gather(*(office.post("/jobs", BODY, Idempotency_Key="k-1") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.headers.get("idempotency-replayed") for answer in answers} == {None, "true"}
    refused(await office.post("/jobs", BODY | {"priority": 3}, Idempotency_Key="k-1"), 422, "idempotency_mismatch")
    both = BODY | {"idempotency_key": "k-2"}
    refused(await office.post("/jobs", both, Idempotency_Key="k-1"), 422, "validation_error")
    other = await office.post("/jobs", BODY | {"owner_service": "billing"}, Idempotency_Key="k-1")
    assert other.status_code == 201


async def test_a_dedupe_key_is_one_active_job(office: Office) -> None:
    first = await office.submit(dedupe_key="d")
    problem = refused(await office.post("/jobs", BODY | {"dedupe_key": "d"}), 409, "dedupe_conflict")
    assert problem["active_id"] == first["id"]
    again = await office.post("/jobs", BODY | {"dedupe_key": "d", "on_conflict": "return"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])


async def test_a_batch_is_all_or_nothing(office: Office) -> None:
    items = [{"input": {"user": str(index)}} for index in range(30)]
    defaults = {name: value for name, value in BODY.items() if name != "input"} | {"metadata": {"a": "1"}}
    items[3]["metadata"] = {"b": "2"}
    wrong = [*items, {"input": 5}]
    problem = refused(await office.post("/jobs/batch", {"defaults": defaults, "jobs": wrong}), 422, "validation_error")
    assert problem["index"] == 30
    assert problem["errors"][0] == {
        "index": 30,
        "loc": ["body", "jobs", 30, "input"],
        "msg": problem["errors"][0]["msg"],
    }
    assert (await office.get("/jobs")).json()["jobs"] == []
    body = {"defaults": defaults, "jobs": items, "idempotency_key": "b"}
    first = await office.post("/jobs/batch", body)
    again = await office.post("/jobs/batch", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["count"] == 30
    assert [entry["index"] for entry in first.json()["jobs"]] == list(range(30))
    assert again.json() == first.json()
    third = (await office.get(f"/jobs/{first.json()['jobs'][3]['id']}")).json()
    assert (third["metadata"], third["input"]) == ({"a": "1", "b": "2"}, {"user": "3"})
    assert third["batch_id"] == first.json()["batch_id"]


async def test_a_batch_of_two_owners_or_of_none_is_refused(office: Office) -> None:
    problem = refused(
        await office.post("/jobs/batch", {"jobs": [BODY, BODY | {"owner_service": "b"}]}), 422, "validation_error"
    )
    assert problem["index"] == 1
    refused(await office.post("/jobs/batch", {"jobs": []}), 422, "validation_error")
    many: dict[str, Any] = {"jobs": [{}] * 10_001}
    refused(await office.post("/jobs/batch", many), 413, "payload_too_large")
