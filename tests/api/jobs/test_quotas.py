"""What an owner may have, over HTTP: each quota is kept by single jobs and batches, also by those that come at once."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from domain.new_job import DAY_MS
from infrastructure.persistence.database import POSTGRES
from infrastructure.persistence.postgres import Bounds, PostgresDatabase
from tests.api.jobs.conftest import BODY, Office
from tests.api.jobs.test_trouble import office_on
from tests.api.problems import refused
from tests.api.world import World
from tests.databases import EPOCH_MS, POSTGRES_URL, with_test_clock

OWNER = BODY["owner_service"]
LEFT_MS = DAY_MS - EPOCH_MS % DAY_MS
"""Until the next day of UTC, when a test begins."""


async def allow(office: Office, **rules: Any) -> None:
    answer = await office.client.patch(f"/api/v1/owners/{OWNER}", json=rules)
    assert answer.status_code == 200, answer.text


async def told_to_wait(office: Office, body: dict[str, Any], quota: str, seconds: int = 1) -> None:
    """One job, and a batch with one, are refused for so long (and up to 2 s of jitter), and nobody else's is."""
    before = await office.kept.rows("SELECT count(*) FROM jobs")
    for path, asked in (("/jobs", body), ("/jobs/batch", {"jobs": [body]})):
        answer = await office.post(path, asked)
        assert refused(answer, 429, "quota_exceeded")["quota"] == quota
        assert seconds <= int(answer.headers["retry-after"]) <= seconds + 2
    assert await office.kept.rows("SELECT count(*) FROM jobs") == before
    await office.submit(owner_service="billing", model_profile="elsewhere", input=body["input"])


async def test_of_jobs_that_come_at_once_only_as_many_wait_as_may(kept_office: Office) -> None:
    office = kept_office
    await allow(office, max_pending=5)
    answers = await asyncio.gather(*(office.post("/jobs", BODY) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [429] * 15
    await told_to_wait(office, BODY, "max_pending")
    assert len(await office.claim(limit=3, model_profiles=[BODY["model_profile"]])) == 3
    refused(await office.post("/jobs/batch", {"jobs": [BODY] * 4}), 429, "quota_exceeded")
    assert (await office.post("/jobs/batch", {"jobs": [BODY] * 3})).status_code == 201


async def test_a_key_that_is_used_again_costs_nothing(kept_office: Office) -> None:
    office = kept_office
    await allow(office, max_pending=1, input_bytes_per_day=100)
    said = BODY | {"idempotency_key": "k", "input": {"user": "x" * 60}}
    assert [(await office.post("/jobs", said)).status_code for _ in range(3)] == [201, 200, 200]


async def test_the_bytes_of_a_day_are_counted_by_their_owner_and_forgotten_the_next(kept_office: Office) -> None:
    office = kept_office
    await allow(office, input_bytes_per_day=1000)
    large = BODY | {"input": {"user": "x" * 600}}
    job = (await office.post("/jobs", large)).json()["id"]
    await told_to_wait(office, large, "input_bytes_per_day", LEFT_MS // 1000)
    # What is over or gone was received all the same.
    await office.post(f"/jobs/{job}/cancel")
    await office.client.delete(f"/api/v1/jobs/{job}")
    await office.advance(LEFT_MS - 1)
    await told_to_wait(office, large, "input_bytes_per_day", 1)
    await office.submit()
    await office.advance(1)
    assert (await office.post("/jobs", large)).status_code == 201


async def test_the_tokens_of_a_day_are_those_that_its_results_took(kept_office: Office) -> None:
    office = kept_office
    await allow(office, tokens_per_day=10)
    job, token = await office.claimed()
    later = await office.submit()
    report = {"lease_token": token, "result": 1, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    for _ in range(2):
        await office.post(f"/jobs/{job}/complete", report)
    await told_to_wait(office, BODY, "tokens_per_day", LEFT_MS // 1000)
    assert await office.kept.rows("SELECT tokens FROM owner_days") == [(10,)]
    # Of two that are used up the one that lasts longer is told.
    await allow(office, max_pending=0)
    await told_to_wait(office, BODY, "tokens_per_day", LEFT_MS // 1000)
    await allow(office, max_pending=None)
    # What was taken before is run.
    assert [one["id"] for one in await office.claim(model_profiles=[BODY["model_profile"]])] == [later["id"]]
    await office.advance(LEFT_MS)
    await office.submit()


async def test_no_more_of_an_owner_run_than_may_whatever_the_queue(kept_office: Office) -> None:
    office = kept_office
    await allow(office, max_running=2)
    for profile in ("a", "b", "c"):
        await office.submit(model_profile=profile)
        await office.submit(model_profile=profile, owner_service="billing")
    taken = [await office.claim(worker_id=f"w-{number}", limit=4) for number in range(4)]
    owners = [job["owner_service"] for jobs in taken for job in jobs]
    assert (owners.count(OWNER), owners.count("billing")) == (2, 3)


@pytest.mark.postgres
async def test_a_job_that_comes_while_rules_are_set_is_held_to_them(
    world: World, postgres_schema: str, tmp_path: Path
) -> None:
    database = PostgresDatabase(POSTGRES_URL, Bounds(4, schema=postgres_schema), spelling=with_test_clock(POSTGRES))
    other = await asyncpg.connect(POSTGRES_URL, server_settings={"search_path": postgres_schema})
    async with office_on(database, world, tmp_path) as office:
        await office.kept.empty()
        await allow(office, max_pending=5)
        await office.submit()
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT * FROM owners FOR UPDATE")

        async def waiting(count: int) -> None:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name=:name AND wait_event_type='Lock'"
            while (await office.kept.rows(query, name=postgres_schema))[0][0] < count:  # noqa: ASYNC110 (no event tells)
                await asyncio.sleep(0.01)

        setting = asyncio.create_task(allow(office, max_pending=1))
        try:
            async with asyncio.timeout(20):
                await waiting(1)
                asking = asyncio.create_task(office.post("/jobs", BODY))
                await waiting(2)
        finally:
            await transaction.rollback()
        await setting
        refused(await asking, 429, "quota_exceeded")
    await other.close()
