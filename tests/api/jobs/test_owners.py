"""Keys that are bound to owners and to model profiles: what is not theirs is not there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import Engine, event

from domain.access import Scope
from tests.api.jobs.conftest import BODY, IN_MEMORY, Office
from tests.api.problems import refused
from tests.api.world import TEXT, in_process
from tests.fakes.keys import keys, shown, stored

KEYS = keys(
    stored("ours", Scope.JOBS, owners=["telephony"]),
    stored("theirs", Scope.JOBS, owners=["billing"]),
    stored("both", Scope.JOBS, owners=["telephony", "billing"]),
    stored("boss", Scope.ADMIN, owners=["telephony"]),
    stored("tiny", Scope.WORKER, profiles=[TEXT]),
    stored("other", Scope.WORKER, profiles=["other:1b"]),
    stored("infer-and-jobs", Scope.INFER, Scope.JOBS, owners=["telephony"]),
)
NEW = {name: value for name, value in BODY.items() if name != "owner_service"}


class Desk:
    """The job API as the holders of some keys see it."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def ask(self, key: str, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """A request of the job API with that key."""
        return await self._client.request(method, f"/api/v1{path}", json=body, headers={**shown(key), **headers})

    async def made(self, key: str, **fields: Any) -> str:
        """The id of a new job."""
        answer = await self.ask(key, "POST", "/jobs", NEW | fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture
async def desk(office: Office) -> Any:
    async with in_process(office.world.app(jobs=office.services, keys=KEYS)) as client:
        yield Desk(client)


async def test_the_owner_is_that_of_the_key_where_it_has_exactly_one(desk: Desk) -> None:
    job = (await desk.ask("ours", "GET", f"/jobs/{await desk.made('ours')}")).json()
    assert job["owner_service"] == "telephony"
    refused(await desk.ask("both", "POST", "/jobs", NEW), 422, "validation_error")
    refused(await desk.ask("jobs", "POST", "/jobs", NEW), 422, "validation_error")
    await desk.made("both", owner_service="billing")
    await desk.made("jobs", owner_service="anybody")
    batch = await desk.ask("ours", "POST", "/jobs/batch", {"jobs": [NEW, NEW]})
    assert batch.status_code == 201


async def test_a_job_for_another_owner_is_forbidden(desk: Desk) -> None:
    refused(await desk.ask("ours", "POST", "/jobs", NEW | {"owner_service": "billing"}), 403, "owner_forbidden")
    batch = {"jobs": [NEW, NEW | {"owner_service": "billing"}]}
    refused(await desk.ask("ours", "POST", "/jobs/batch", batch), 403, "owner_forbidden")
    assert (await desk.ask("admin", "GET", "/jobs")).json()["jobs"] == []


async def test_f15_the_same_idempotency_key_of_another_owner_is_another_job(desk: Desk) -> None:
    said = {"idempotency-key": "once"}
    first = await desk.ask("ours", "POST", "/jobs", NEW, **said)
    again = await desk.ask("ours", "POST", "/jobs", NEW, **said)
    other = await desk.ask("theirs", "POST", "/jobs", NEW, **said)
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 201]
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]


async def test_f22_a_foreign_job_looks_like_one_that_does_not_exist(desk: Desk) -> None:
    job, unknown = await desk.made("ours"), str(uuid4())
    calls = [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")]
    for method, verb in calls:
        answers = [await desk.ask("theirs", method, f"/jobs/{one}{verb}") for one in (job, unknown)]
        bodies = [refused(answer, 404, "not_found") for answer in answers]
        assert len({str({**one, "request_id": ""}) for one in bodies}) == 1
        headers = [{**answer.headers, "x-request-id": ""} for answer in answers]
        assert headers[0] == headers[1]
    seen = (await desk.ask("ours", "GET", f"/jobs/{job}")).json()
    assert (seen["status"], seen["attempt"]) == ("pending", 0)
    for prefix in ("", "/api"):
        foreign = await desk._client.get(f"{prefix}/task/{job}", headers=shown("theirs"))
        own = await desk._client.get(f"{prefix}/task/{job}", headers=shown("ours"))
        assert (foreign.status_code, own.json()["status"]) == (404, "PENDING")


async def test_lists_and_bulk_changes_know_only_ones_own(desk: Desk) -> None:
    ours, theirs = await desk.made("ours"), await desk.made("theirs")

    async def listed(key: str, query: str = "") -> set[str]:
        answer = await desk.ask(key, "GET", f"/jobs{query}")
        return {job["id"] for job in answer.json()["jobs"]}

    assert await listed("ours") == {ours}
    assert await listed("ours", "?owner_service=billing") == set()
    assert await listed("both") == await listed("jobs") == await listed("boss") == {ours, theirs}
    bulk = {"filter": {"status": "pending"}, "limit": 10}
    changed = (await desk.ask("ours", "POST", "/jobs/cancel", bulk)).json()
    assert (changed["matched"], changed["ids"]) == (1, [ours])
    named = {"filter": {"owner_service": "billing"}, "limit": 10}
    assert (await desk.ask("ours", "POST", "/jobs/cancel", named)).json()["matched"] == 0
    assert (await desk.ask("ours", "POST", "/jobs/retry", named)).json()["matched"] == 0
    assert (await desk.ask("theirs", "GET", f"/jobs/{theirs}")).json()["status"] == "pending"


async def test_only_an_administrator_takes_a_running_job_without_force(desk: Desk) -> None:
    job = await desk.made("ours")
    assert len((await desk.ask("worker", "POST", "/jobs/claim", {"worker_id": "w"})).json()["jobs"]) == 1
    refused(await desk.ask("ours", "POST", f"/jobs/{job}/retry"), 409, "invalid_transition")
    assert (await desk.ask("admin", "POST", f"/jobs/{job}/retry")).json()["status"] == "pending"
    await desk.ask("worker", "POST", "/jobs/claim", {"worker_id": "w"})
    assert (await desk.ask("ours", "POST", f"/jobs/{job}/retry", {"force": True})).json()["status"] == "pending"


async def test_a_claim_is_for_the_profiles_of_the_key(desk: Desk) -> None:
    await desk.made("ours")
    wish = {"worker_id": "w", "limit": 1}
    refused(await desk.ask("other", "POST", "/jobs/claim", wish | {"model_profiles": [TEXT]}), 403, "profile_forbidden")
    assert (await desk.ask("other", "POST", "/jobs/claim", wish)).json()["jobs"] == []
    [job] = (await desk.ask("tiny", "POST", "/jobs/claim", wish)).json()["jobs"]
    assert job["model_profile"] == TEXT


async def test_a_job_of_another_profile_is_not_there_for_a_worker(desk: Desk) -> None:
    await desk.made("ours")
    [job] = (await desk.ask("worker", "POST", "/jobs/claim", {"worker_id": "w"})).json()["jobs"]
    told = {"lease_token": job["lease_token"], "result": 1, "category": "timeout"}
    for verb in ("heartbeat", "complete", "fail", "release"):
        refused(await desk.ask("other", "POST", f"/jobs/{job['id']}/{verb}", told), 404, "not_found")
    refused(await desk.ask("other", "GET", f"/jobs/{job['id']}"), 404, "not_found")
    lease = {"x-lease-token": job["lease_token"]}
    refused(await desk.ask("other", "GET", f"/jobs/{job['id']}/audio", **lease), 404, "not_found")
    assert (await desk.ask("tiny", "GET", f"/jobs/{job['id']}")).json()["id"] == job["id"]
    assert (await desk.ask("tiny", "POST", f"/jobs/{job['id']}/heartbeat", told)).status_code == 200
    assert (await desk.ask("tiny", "POST", f"/jobs/{job['id']}/complete", told)).json()["status"] == "completed"


async def test_statistics_count_only_ones_own(kept_office: Office) -> None:
    async with in_process(kept_office.world.app(jobs=kept_office.services, keys=KEYS)) as client:
        desk = Desk(client)
        await desk.made("ours")
        await desk.made("theirs")
        await desk.made("theirs")

        async def pending(key: str, query: str = "") -> int:
            answer = await desk.ask(key, "GET", f"/stats{query}")
            assert answer.status_code == 200, answer.text
            document = answer.json()
            assert sum(row["pending"] for row in document["by_owner"]) == document["jobs"]["pending"]
            return int(document["jobs"]["pending"])

        assert [await pending(key) for key in ("ours", "theirs", "both", "jobs", "metrics")] == [1, 2, 3, 3, 3]
        assert await pending("ours", "?owner_service=telephony") == 1
        assert await pending("ours", "?owner_service=billing") == 0


@IN_MEMORY
async def test_an_answer_in_the_background_needs_the_scope_jobs_too(office: Office, desk: Desk) -> None:
    body, later = {"prompt": "hi", "model": TEXT}, {"prefer": "respond-async"}
    client = desk._client
    refusal = await client.post("/generate", json=body, headers={**shown("infer"), **later})
    refused(refusal, 403, "insufficient_scope")
    accepted = await client.post("/generate", json=body, headers={**shown("infer-and-jobs"), **later})
    assert accepted.status_code == 202, accepted.text
    job = (await desk.ask("ours", "GET", f"/jobs/{accepted.json()['id']}")).json()
    assert job["owner_service"] == "telephony"


@asynccontextmanager
async def statements() -> AsyncIterator[list[tuple[str, Any]]]:
    """What is asked of the database meanwhile: statements and their values."""
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


HIDDEN = (
    ("theirs", "GET", ""),
    ("theirs", "GET", "?include=attempts"),
    ("theirs", "GET", "/events"),
    ("theirs", "POST", "/cancel"),
    ("theirs", "POST", "/retry"),
    ("theirs", "DELETE", ""),
    ("other", "GET", ""),
    ("other", "GET", "/audio"),
    ("other", "POST", "/heartbeat"),
    ("other", "POST", "/complete"),
    ("other", "POST", "/fail"),
    ("other", "POST", "/release"),
)


@pytest.mark.parametrize("state", ["pending", "running", "cancelled"])
async def test_f22_a_foreign_job_is_as_much_work_as_one_that_does_not_exist(kept_office: Office, state: str) -> None:
    """The same statements, each of which finds as many rows: so time tells nothing, whatever the machine does."""
    async with in_process(kept_office.world.app(jobs=kept_office.services, keys=KEYS)) as client:
        desk = Desk(client)
        job, unknown = await desk.made("ours"), str(uuid4())
        token = "t"
        if state == "running":
            [held] = (await desk.ask("tiny", "POST", "/jobs/claim", {"worker_id": "w"})).json()["jobs"]
            token = held["lease_token"]
        elif state == "cancelled":
            await desk.ask("ours", "POST", f"/jobs/{job}/cancel")
        for key, method, verb in HIDDEN:
            body = None if method != "POST" else {"lease_token": token, "result": 1, "category": "timeout"}
            found: list[list[tuple[str, int]]] = []
            for one in (unknown, job, "no-uuid", job.upper(), "0" * 9000):
                async with statements() as asked:
                    answer = await desk.ask(key, method, f"/jobs/{one}{verb}", body)
                refused(answer, 404, "not_found")
                found.append([(text, await rows_of(kept_office, text, values)) for text, values in asked])
            assert found[0] == found[1], (method, verb)
            assert [rows for _, rows in found[0] if rows] in ([], [1]), "only the time may be found"
            # What is no id is known by its spelling, of which whoever wrote it knows.
            assert found[2:] == [[], [], []]


async def rows_of(office: Office, statement: str, values: Any) -> int:
    """How many rows a query finds."""
    if statement.startswith("BEGIN"):
        return 0
    assert statement.lstrip().startswith("SELECT"), statement
    return await office.kept.database.read(lambda c: len(c.exec_driver_sql(statement, values).all()))
