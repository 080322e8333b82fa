"""PostgreSQL whose connection is cut at any moment of a request: what was stored is told, the rest is 503."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from domain.job_repository import Claim
from infrastructure.persistence.database import POSTGRES
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from tests.api.jobs.conftest import BODY, Office
from tests.api.jobs.test_trouble import office_on, told_to_come_back
from tests.api.problems import refused
from tests.api.world import World
from tests.databases import postgres_jobs, with_test_clock
from tests.faults.broker_gate import Gate

pytestmark = pytest.mark.postgres


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate(5432)
    yield gate
    gate.shut()


@pytest.fixture
async def office(gate: Gate, world: World, postgres_schema: str, tmp_path: Path) -> AsyncIterator[Office]:
    """Jobs in a database behind the gate, over one connection."""
    url = f"postgresql://postgres@127.0.0.1:{gate.port}/test"
    database = PostgresDatabase(url, Bounds(1, schema=postgres_schema), spelling=with_test_clock(POSTGRES))
    async with office_on(database, world, tmp_path) as office:
        await office.kept.empty()
        yield office


def is_commit(reply: bytes) -> bool:
    """Whether the database says there that it has committed."""
    return b"COMMIT\0" in reply


def is_number(number: int) -> Callable[[bytes], bool]:
    """Holds for that reply, counted from 0."""
    left = iter(range(number, -1, -1))
    return lambda _: next(left) == 0


SAID: tuple[dict[str, Any], ...] = (
    {},
    {"dedupe_key": "d"},
    {"dedupe_key": "d", "on_conflict": "return"},
    {"idempotency_key": "k"},
)


@pytest.mark.parametrize("fields", SAID)
async def test_a_job_whose_commit_was_not_heard_of_is_told_as_created(
    office: Office, gate: Gate, fields: dict[str, Any]
) -> None:
    gate.cut_at(is_commit)
    job = await office.submit(**fields)
    assert gate.never_mind()
    assert await office.kept.rows("SELECT id FROM jobs") == [(job["id"],)]
    assert await office.kept.rows("SELECT kind FROM job_events") == [("created",)]


@pytest.mark.parametrize("said", [{}, {"idempotency_key": "k"}])
@pytest.mark.parametrize("fields", [{}, {"dedupe_key": "d"}, {"idempotency_key": "k"}])
async def test_a_batch_whose_commit_was_not_heard_of_is_told_as_created(
    office: Office, gate: Gate, fields: dict[str, Any], said: dict[str, Any]
) -> None:
    gate.cut_at(is_commit)
    answer = await office.post("/jobs/batch", {"jobs": [BODY | fields, BODY], **said})
    assert gate.never_mind()
    assert answer.status_code == 201, answer.text
    assert [one["created"] for one in answer.json()["jobs"]] == [True, True]
    ids = [(one["id"],) for one in answer.json()["jobs"]]
    assert await office.kept.rows("SELECT id FROM jobs ORDER BY seq") == ids


async def test_a_connection_that_is_lost_at_any_moment_of_a_create_is_replaced_and_one_job_made(
    office: Office, gate: Gate
) -> None:
    await office.submit()
    for moment in range(100):
        await office.kept.empty()
        gate.cut_at(is_number(moment))
        job = await office.submit()
        if not gate.never_mind():
            assert moment > 8
            return
        assert await office.kept.rows("SELECT id FROM jobs") == [(job["id"],)]


BATCH = {"jobs": [BODY, BODY]}
FILTER = {"filter": {"owner_service": BODY["owner_service"]}, "limit": 9}
CLAIM = {"worker_id": "w-1", "limit": 1}


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/jobs", BODY),
    ("POST", "/jobs/batch", BATCH),
    ("POST", "/jobs/claim", CLAIM),
    ("POST", "/jobs/{running}/heartbeat", {}),
    ("POST", "/jobs/{running}/complete", {"result": 1}),
    ("POST", "/jobs/{running}/fail", {"category": "timeout"}),
    ("POST", "/jobs/{running}/release", {}),
    ("POST", "/jobs/{pending}/cancel", {}),
    ("POST", "/jobs/{pending}/retry", {}),
    ("POST", "/jobs/cancel", FILTER),
    ("POST", "/jobs/retry", FILTER),
    ("DELETE", "/jobs/{over}", None),
    ("GET", "/jobs/{pending}?include=attempts", None),
    ("GET", "/jobs/{pending}/events", None),
    ("GET", "/jobs", None),
    ("GET", "/stats", None),
    ("GET", "/workers", None),
    ("GET", "/queues", None),
    ("PATCH", "/queues/x", {"paused": True}),
    ("GET", "/owners", None),
    ("PATCH", "/owners/x", {"weight": 2}),
    ("GET", "/webhooks/deliveries", None),
    ("POST", "/webhooks/deliveries/none/redeliver", None),
)


async def test_whoever_asks_while_the_database_goes_away_is_told_to_come_back(office: Office, gate: Gate) -> None:
    over = (await office.submit())["id"]
    await office.post(f"/jobs/{over}/cancel")
    running, token = await office.claimed()
    names = {"over": over, "running": running, "pending": (await office.submit())["id"]}
    for method, path, body in ROUTES:
        sent = body | {"lease_token": token} if "running" in path else body
        await office.kept.rows("SELECT 1")
        gate.cut_at(is_number(0), then_shut=True)
        answer = await office.client.request(method, f"/api/v1{path.format(**names)}", json=sent)
        assert gate.never_mind()
        told_to_come_back(answer, "database_unavailable")


@pytest.mark.parametrize("asked", [("/jobs", BODY), ("/jobs/batch", {"jobs": [BODY, BODY]})])
async def test_a_create_that_may_or_may_not_be_stored_is_told_to_come_back(
    office: Office, gate: Gate, asked: tuple[str, Any]
) -> None:
    gate.cut_at(is_commit, then_shut=True)
    answer = await office.post(*asked)
    assert gate.never_mind()
    told_to_come_back(answer, "database_unavailable")


async def test_a_change_whose_commit_was_not_heard_of_is_told_as_it_was_made(office: Office, gate: Gate) -> None:
    running, _ = await office.claimed()
    for path, kind in (("retry", "retried"), ("cancel", "cancelled")):
        gate.cut_at(is_commit)
        answer = await office.post(f"/jobs/{running}/{path}")
        assert gate.never_mind()
        assert (answer.status_code, answer.json().get("changed")) == (200, True), answer.text
        kinds = [event["kind"] for event in (await office.get(f"/jobs/{running}/events")).json()["events"]]
        assert kinds.count(kind) == 1
    gate.cut_at(is_commit)
    assert (await office.client.delete(f"/api/v1/jobs/{running}")).status_code == 204
    assert gate.never_mind()
    assert await office.kept.rows("SELECT id FROM jobs") == []
    ids = {(await office.submit())["id"] for _ in range(3)}
    gate.cut_at(is_commit)
    done = (await office.post("/jobs/cancel", FILTER)).json()
    assert gate.never_mind()
    assert (done["matched"], done["changed"], set(done["ids"])) == (3, 3, ids)


async def test_a_retry_that_is_tried_again_takes_the_job_from_nobody_who_claimed_it_since(
    office: Office, gate: Gate, postgres_schema: str
) -> None:
    job, _ = await office.claimed()

    def claimed_and_cut(reply: bytes) -> bool:
        """Let a worker have the job between the commit and its loss; on the gate's thread."""

        async def claim() -> None:
            async with postgres_jobs(postgres_schema, fresh=False) as kept:
                assert [one.id for one in await kept.jobs.claim(Claim("quick", 1))] == [job]

        if is_commit(reply):
            asyncio.run(claim())
        return is_commit(reply)

    gate.cut_at(claimed_and_cut)
    again = (await office.post(f"/jobs/{job}/retry")).json()
    assert gate.never_mind()
    assert (again["status"], again["changed"]) == ("pending", True)
    now = (await office.get(f"/jobs/{job}")).json()
    assert (now["status"], now["worker_id"], now["attempt"]) == ("running", "quick", 2)


REPORTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("complete", {"result": 1}, "completed"),
    ("fail", {"category": "timeout"}, "pending"),
    ("fail", {"category": "bad_input"}, "failed"),
)


@pytest.mark.parametrize(("verb", "said", "status"), REPORTS)
async def test_a_report_without_a_token_whose_commit_was_not_heard_of_is_told_as_it_was_made(
    office: Office, gate: Gate, verb: str, said: dict[str, Any], status: str
) -> None:
    job, _ = await office.claimed()
    gate.cut_at(is_commit)
    answer = await office.post(f"/jobs/{job}/{verb}", said)
    assert gate.never_mind()
    assert (answer.status_code, answer.json().get("status")) == (200, status), answer.text
    assert len((await office.get(f"/jobs/{job}/events")).json()["events"]) == 3
    assert len((await office.get(f"/jobs/{job}", include="attempts")).json()["attempts"]) == 1


async def test_a_failure_that_is_tried_again_takes_the_job_from_nobody_who_claimed_it_since(
    office: Office, gate: Gate, postgres_schema: str
) -> None:
    job, _ = await office.claimed()

    def claimed_and_cut(reply: bytes) -> bool:
        """Let a worker have the job anew between the commit and its loss; on the gate's thread."""

        async def claim() -> None:
            async with postgres_jobs(postgres_schema, fresh=False) as kept:
                await kept.advance(3_600_000)
                assert [one.id for one in await kept.jobs.claim(Claim("quick", 1))] == [job]

        if is_commit(reply):
            asyncio.run(claim())
        return is_commit(reply)

    gate.cut_at(claimed_and_cut)
    failed = await office.post(f"/jobs/{job}/fail", {"category": "timeout"})
    assert gate.never_mind()
    assert (failed.status_code, failed.json()["status"]) == (200, "pending")
    now = (await office.get(f"/jobs/{job}")).json()
    assert (now["status"], now["worker_id"], now["attempt"]) == ("running", "quick", 2)


async def test_a_failure_without_a_token_that_was_heard_of_is_not_taken_twice(office: Office) -> None:
    """There is nothing by which its sender could be known again."""
    job, _ = await office.claimed()
    assert (await office.post(f"/jobs/{job}/fail", {"category": "timeout"})).status_code == 200
    refused(await office.post(f"/jobs/{job}/fail", {"category": "timeout"}), 409, "lease_lost")
