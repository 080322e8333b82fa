"""Workers over HTTP: claims, leases, reports, and who is told that it is not the holder any more."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from domain.job_repository import Reap
from tests.api.jobs.conftest import BODY, IN_MEMORY, Office
from tests.api.problems import refused
from tests.api.world import in_process


async def test_a_claim_takes_the_best_jobs_and_only_it_is_told_the_token(office: Office) -> None:
    low, high = await office.submit(priority=-1), await office.submit(priority=5)
    [first] = await office.claim(limit=1)
    assert (first["id"], first["status"], first["attempt"], first["worker_id"]) == (high["id"], "running", 1, "w-1")
    assert first["deadline_at"] > first["lease_expires_at"]
    shown = (await office.get(f"/jobs/{high['id']}")).json()
    assert (shown["phase"], "lease_token" in shown) == ("leased", False)
    assert [job["id"] for job in await office.claim()] == [low["id"]]
    assert await office.claim() == []


async def test_a_claim_is_for_the_types_and_profiles_that_it_names(office: Office) -> None:
    await office.submit()
    assert await office.claim(task_types=["transcribe"]) == []
    assert await office.claim(model_profiles=["other"]) == []
    assert len(await office.claim(task_types=["llm_chat"], model_profiles=[BODY["model_profile"]])) == 1


@pytest.mark.parametrize(
    "change",
    [
        *({"limit": value} for value in (-1, 0, 101, 10**9, "4", 4.5, None, True)),
        *({"lease_seconds": value} for value in (9, 3601, "60", 1.5)),
        *({"wait_seconds": value} for value in (-1, 31, "1")),
        {"worker_id": "a b"},
        {"worker_id": ""},
        {"task_types": ["x"] * 51},
        {"task_types": "llm_chat"},
        {"model_profiles": [""]},
    ],
)
@IN_MEMORY
async def test_a_claim_out_of_range_is_refused(office: Office, change: dict[str, Any]) -> None:
    refused(await office.post("/jobs/claim", {"worker_id": "w"} | change), 422, "validation_error")


async def test_a_report_is_taken_once_and_told_again(office: Office) -> None:
    job, token = await office.claimed()
    report = {"lease_token": token, "result": {"text": "ok"}, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    first, again = [await office.post(f"/jobs/{job}/complete", report) for _ in range(2)]
    assert (first.status_code, first.json()["status"], first.json()["replayed"]) == (200, "completed", False)
    assert (again.status_code, again.json()["replayed"]) == (200, True)
    assert again.json()["result"] == {"text": "ok"}
    problem = refused(await office.post(f"/jobs/{job}/complete", report | {"result": 1}), 409, "already_completed")
    assert problem["job"] == {"id": job, "status": "completed", "attempt": 1}
    refused(await office.post(f"/jobs/{job}/fail", {"lease_token": token, "category": "x"}), 409, "invalid_transition")


@pytest.mark.parametrize("result", [None, 0, "", [], {"a": [1.5, None, "é"]}])
async def test_a_result_is_any_json(office: Office, result: Any) -> None:
    job, _ = await office.claimed()
    done = await office.post(f"/jobs/{job}/complete", {"result": result})
    assert (done.status_code, done.json()["result"]) == (200, result)


async def test_reports_that_say_too_little_or_too_much_are_refused(office: Office) -> None:
    job, token = await office.claimed()
    held = {"lease_token": token}
    refused(await office.post(f"/jobs/{job}/complete", held), 422, "validation_error")
    refused(await office.post(f"/jobs/{job}/fail", held), 422, "validation_error")
    refused(await office.post(f"/jobs/{job}/fail", held | {"category": "Bad Code"}), 422, "validation_error")
    both = held | {"category": "timeout", "error_code": "unknown"}
    refused(await office.post(f"/jobs/{job}/fail", both), 422, "validation_error")
    for seconds in (-1, 10**9):
        body = held | {"category": "timeout", "retry_after_seconds": seconds}
        refused(await office.post(f"/jobs/{job}/fail", body), 422, "validation_error")
    large = {"result": "x" * (8 << 20)}
    refused(await office.post(f"/jobs/{job}/complete", held | large), 413, "payload_too_large")
    beat = held | {"progress": {"a": "x" * 5000}}
    refused(await office.post(f"/jobs/{job}/heartbeat", beat), 413, "payload_too_large")
    assert (await office.get(f"/jobs/{job}")).json()["status"] == "running"
    done = await office.post(f"/jobs/{job}/complete", {"result": "x" * ((8 << 20) - 2)}, X_Lease_Token=token)
    assert done.status_code == 200


async def test_a_seeds_worker_completes_without_a_token_but_only_a_first_attempt(office: Office) -> None:
    job, _ = await office.claimed()
    await office.advance(61_000)
    assert await office.sweep(Reap()) == 1
    [again] = await office.claim()
    assert (again["id"], again["attempt"], again["failure_count"]) == (job, 2, 1)
    refused(await office.post(f"/jobs/{job}/complete", {"result": 1}), 409, "lease_required")
    shown = (await office.get(f"/jobs/{job}", include="attempts")).json()
    assert [(one["outcome"], one["error_code"]) for one in shown["attempts"]] == [("lost", "stale_worker")]


async def test_a_server_may_want_a_token_with_every_report(office: Office) -> None:
    job, token = await office.claimed()
    strict = replace(office.services, require_lease_token=True)
    async with in_process(office.world.app(jobs=strict)) as client:
        for verb, body in (("complete", {"result": 1}), ("fail", {"category": "timeout"}), ("release", {})):
            refused(await client.post(f"/api/v1/jobs/{job}/{verb}", json=body), 409, "lease_required")
        assert (await client.get(f"/api/v1/jobs/{job}")).json()["status"] == "running"
        done = await client.post(f"/api/v1/jobs/{job}/complete", json={"result": 1}, headers={"x-lease-token": token})
        assert (done.status_code, done.json()["status"]) == (200, "completed")
        refused(await client.post(f"/api/v1/jobs/{job}/complete", json={"result": 1}), 409, "lease_required")


async def test_whoever_lost_a_job_changes_nothing(office: Office) -> None:
    job, old = await office.claimed()
    await office.advance(61_000)
    await office.sweep(Reap())
    [again] = await office.claim()
    stale = {"lease_token": old}
    refused(await office.post(f"/jobs/{job}/heartbeat", stale), 409, "lease_lost")
    refused(await office.post(f"/jobs/{job}/complete", stale | {"result": 1}), 409, "lease_lost")
    refused(await office.post(f"/jobs/{job}/fail", stale | {"category": "timeout"}), 409, "lease_lost")
    refused(await office.post(f"/jobs/{job}/release", stale), 409, "lease_lost")
    done = await office.post(f"/jobs/{job}/complete", {"lease_token": again["lease_token"], "result": 2})
    assert (done.status_code, done.json()["result"]) == (200, 2)


async def test_a_heartbeat_prolongs_tells_progress_and_hears_of_a_cancel(office: Office) -> None:
    job, token = await office.claimed()
    refused(await office.post(f"/jobs/{job}/heartbeat"), 409, "lease_required")
    await office.advance(30_000)
    beat = (await office.post(f"/jobs/{job}/heartbeat", {"lease_token": token, "progress": {"done": 3}})).json()
    assert (beat["cancel_requested"], beat["attempt"], beat["status"]) == (False, 1, "running")
    assert (await office.get(f"/jobs/{job}")).json()["progress"] == {"done": 3}
    cancel = await office.post(f"/jobs/{job}/cancel", {"reason": "not needed"})
    assert (cancel.status_code, cancel.json()["phase"]) == (202, "cancelling")
    beat = (await office.post(f"/jobs/{job}/heartbeat", {"lease_token": token})).json()
    assert (beat["cancel_requested"], beat["cancel_reason"]) == (True, "not needed")
    failed = await office.post(f"/jobs/{job}/fail", {"lease_token": token, "category": "cancelled"})
    assert failed.json()["status"] == "cancelled"


async def test_failures_wait_or_end_by_their_code(office: Office) -> None:
    job, token = await office.claimed()
    failed = await office.post(f"/jobs/{job}/fail", {"lease_token": token, "category": "timeout", "message": "slow"})
    body = failed.json()
    assert (body["status"], body["phase"], body["failure_count"]) == ("pending", "retry_wait", 1)
    assert (body["error_code"], body["error_message"]) == ("timeout", "slow")
    assert body["next_attempt_at"] is not None
    job, token = await office.claimed()
    body = (await office.post(f"/jobs/{job}/fail", {"error_code": "bad_input"})).json()
    assert (body["status"], body["attempt"]) == ("failed", 1)
    job, token = await office.claimed()
    body = (await office.post(f"/jobs/{job}/release", {"lease_token": token, "reason": "moving"})).json()
    assert (body["status"], body["phase"], body["failure_count"]) == ("pending", "ready", 0)


async def test_twenty_reports_at_once_are_one_change(office: Office) -> None:
    job, token = await office.claimed()
    held = {"lease_token": token}
    reports = [office.post(f"/jobs/{job}/complete", held | {"result": 1}) for _ in range(10)]
    reports += [office.post(f"/jobs/{job}/fail", held | {"category": "bad_input"}) for _ in range(10)]
    answers = await asyncio.gather(*reports)
    assert sorted({answer.status_code for answer in answers}) == [200, 409]
    assert sum(answer.status_code == 200 and not answer.json()["replayed"] for answer in answers) == 1
    kinds = [event["kind"] for event in (await office.get(f"/jobs/{job}/events")).json()["events"]]
    assert len(kinds) == 3


async def test_whoever_waits_is_given_a_job_as_soon_as_there_is_one(office: Office) -> None:
    waiting = [asyncio.create_task(office.claim(worker_id=f"w-{n}", wait_seconds=30)) for n in range(3)]
    await asyncio.sleep(0.05)
    job = await office.submit()
    done, others = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert [[one["id"] for one in task.result()] for task in done] == [[job["id"]]]
    office.services.desk.stop()
    assert [await task for task in others] == [[], []]
    assert await office.claim() == []
