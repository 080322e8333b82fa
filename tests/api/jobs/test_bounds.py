"""What strangers send: sizes, encodings, ranges, hostile text, ids. The same on both databases, never a 500."""

import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest

from tests.api.jobs.conftest import BODY, IN_MEMORY, Office
from tests.api.problems import refused

JSON = {"content-type": "application/json"}


async def in_pieces(raw: bytes) -> AsyncGenerator[bytes, None]:
    """A body whose length nobody announces."""
    for at in range(0, len(raw), 1 << 16):
        yield raw[at : at + (1 << 16)]


async def test_a_batch_of_ten_thousand_is_all_or_nothing(kept_office: Office) -> None:
    office = kept_office
    items: list[dict[str, Any]] = [{"input": {}} for _ in range(10_000)]
    wrong = [*items[:9_999], {"input": {}, "priority": 11}]
    problem = refused(await office.post("/jobs/batch", {"defaults": BODY, "jobs": wrong}), 422, "validation_error")
    assert problem["index"] == 9_999
    assert await office.kept.rows("SELECT count(*) FROM jobs") == [(0,)]
    stored = await office.post("/jobs/batch", {"defaults": BODY, "jobs": items})
    assert (stored.status_code, stored.json()["count"]) == (201, 10_000)
    assert await office.kept.rows("SELECT count(*) FROM jobs") == [(10_000,)]
    assert len({entry["id"] for entry in stored.json()["jobs"]}) == 10_000


async def test_what_is_too_large_or_compressed_leaves_the_job_with_its_worker(kept_office: Office) -> None:
    office = kept_office
    job, token = await office.claimed()
    path, held = f"/api/v1/jobs/{job}/complete", {**JSON, "x-lease-token": token}
    large = json.dumps({"result": "x" * (8 << 20)}).encode()
    deep = b'{"result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    post = office.client.post
    refused(await post(path, content=large, headers=held), 413, "payload_too_large")
    refused(await post(path, content=in_pieces(large), headers=held), 413, "payload_too_large")
    refused(await post(path, content=in_pieces(large * 3), headers=held), 413, "payload_too_large")
    refused(await post(path, content=deep, headers=held), 422, "invalid_value")
    bomb = {**held, "content-encoding": "gzip"}
    refused(await post(path, content=gzip.compress(bytes(10 << 20)), headers=bomb), 415, "unsupported_media_type")
    key = json.dumps({"result": {"k" * (10 << 20): 1}}).encode()
    refused(await post(path, content=key, headers=held), 413, "payload_too_large")
    assert (await office.get(f"/jobs/{job}")).json()["status"] == "running"
    failed = await office.post(f"/jobs/{job}/fail", {"lease_token": token, "category": "payload_too_large"})
    assert (failed.json()["status"], failed.json()["error_code"]) == ("failed", "payload_too_large")


@pytest.mark.parametrize("limit", ["-1", "0", "101", "1e9", '"4"', "4.5", "4.0", "null", "true", "", " 4", "+4", "4_0"])
@IN_MEMORY
async def test_the_limit_of_a_list_is_a_whole_number_or_refused(office: Office, limit: str) -> None:
    refused(await office.get("/jobs", limit=limit), 422, "validation_error")


HOSTILE = [
    "x'; DROP TABLE jobs; --",
    "%",
    "_",
    "../../etc/passwd",
    "a\r\nX-Injected: 1",
    "${jndi:ldap://x}",
    "<script>",
    "\u202egnp",
    "{{7*7}}",
    "\U0001f600",
    ":name :1 ?",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_comes_back_as_it_is_or_is_refused(kept_office: Office, text: str) -> None:
    office = kept_office
    plain = (await office.submit(input={"user": text, text: [text]}, metadata={text[:64]: text}))["id"]
    shown = (await office.get(f"/jobs/{plain}")).json()
    assert (shown["input"], shown["metadata"]) == ({"user": text, text: [text]}, {text[:64]: text})
    for field in ("owner_service", "owner_ref", "task_type", "model_profile", "dedupe_key", "idempotency_key"):
        answer = await office.post("/jobs", BODY | {field: text})
        if answer.status_code == 201:
            assert answer.json()[field] == text
            assert "x-injected" not in answer.headers
        else:
            refused(answer, 422, "validation_error")
    for name in ("owner_service", "owner_ref", "task_type", "model_profile", "error_code", "batch_id"):
        found = await office.get("/jobs", **{name: text})
        assert found.status_code == 200, found.text
        assert all(job[name] == text for job in found.json()["jobs"])
    [claimed] = await office.claim(limit=1)
    report = {"lease_token": claimed["lease_token"], "result": {text: text}}
    done = await office.post(f"/jobs/{claimed['id']}/complete", report)
    assert done.json()["result"] == {text: text}
    refused(await office.post(f"/jobs/{claimed['id']}/complete", report | {"lease_token": text}), 409, "lease_lost")
    again, token = await office.claimed(model_profile="other")
    failed = await office.post(f"/jobs/{again}/fail", {"lease_token": token, "category": "unknown", "message": text})
    assert failed.json()["error_message"] == text
    assert len((await office.get("/jobs", limit=100)).json()["jobs"]) >= 2


async def test_wild_cards_in_filters_are_letters(kept_office: Office) -> None:
    office = kept_office
    for ref in ("100%", "100x", "a_b", "axb"):
        await office.submit(owner_ref=ref)
    for ref in ("100%", "a_b"):
        assert [job["owner_ref"] for job in (await office.get("/jobs", owner_ref=ref)).json()["jobs"]] == [ref]


async def test_whatever_is_wrong_with_an_id_the_answer_is_the_same(kept_office: Office) -> None:
    office = kept_office
    there = (await office.submit())["id"]
    bodies = []
    for job in (str(uuid4()), there.upper(), there.replace("-", ""), "9" * 2000, "x", "'--", f"{{{there}}}"):
        body = refused(await office.get(f"/jobs/{job}"), 404, "not_found")
        bodies.append({name: value for name, value in body.items() if name not in ("request_id", "instance")})
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize(
    ("seconds", "status"), [(-1, 422), (0, 200), (3600, 200), (3601, 422), (10**9, 422), ("1", 422), (None, 422)]
)
async def test_a_worker_may_ask_for_a_wait_within_an_hour(kept_office: Office, seconds: Any, status: int) -> None:
    job, token = await kept_office.claimed()
    body = {"lease_token": token, "category": "timeout", "retry_after_seconds": seconds}
    assert (await kept_office.post(f"/jobs/{job}/fail", body)).status_code == status


@pytest.mark.parametrize(
    ("category", "least", "most"), [("timeout", 15, 30), ("unknown", 60, 120), ("never_heard_of", 60, 120)]
)
async def test_a_failure_waits_by_its_class(kept_office: Office, category: str, least: int, most: int) -> None:
    office = kept_office
    job, token = await office.claimed()
    await office.post(f"/jobs/{job}/fail", {"lease_token": token, "category": category})
    [(available_at, now)] = await office.kept.rows("SELECT available_at, (SELECT at FROM test_clock) FROM jobs")
    assert 1000 * least <= available_at - now <= 1000 * most
