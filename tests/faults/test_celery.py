"""Celery workers as processes, and what becomes of jobs while their broker is away, empty, doubled or deaf."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from application.job_ports import Call
from application.job_queue import HANDLED_TYPES
from infrastructure.persistence.jobs import SqlJobRepository
from infrastructure.persistence.opening import open_database
from infrastructure.persistence.wake_up import LocalWakeUp
from infrastructure.queue.app import QueueOptions, celery_app
from infrastructure.queue.broker import CeleryBroker
from tests.contract.conftest import new_job
from tests.faults.broker_gate import Gate
from tests.faults.celery_town import MODEL, CeleryWorker, Provider, Town, over, town_of
from tests.faults.test_jobs_killed import LEASE, database, until

REDIS = 6379
# Of its own, because others use the server too, and another checkout may run these tests.
DATABASE = 8 + os.getpid() % 8
QUEUE = "llm"
RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"

pytestmark = pytest.mark.timeout(180)


with_redis = pytest.mark.redis


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """The broker's database, empty."""
    with Redis(port=REDIS, db=DATABASE) as connection:
        connection.flushdb()
        yield connection
        connection.flushdb()


@pytest.fixture(scope="module")
def gate(redis: Redis) -> Iterator[Gate]:
    """What the server reaches the broker through."""
    gate = Gate(REDIS)
    yield gate
    gate.shut()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def town(provider: Provider, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Town:
    return town_of(tmp_path_factory.mktemp("town"), provider, f"redis://127.0.0.1:{REDIS}/{DATABASE}")


@pytest.fixture(scope="module")
def client(town: Town, gate: Gate) -> Iterator[httpx2.Client]:
    with town.serving(CELERY_BROKER_URL=f"redis://127.0.0.1:{gate.port}/{DATABASE}") as client:
        yield client


@pytest.fixture(scope="module")
def worker(town: Town, client: httpx2.Client) -> Iterator[CeleryWorker]:
    with town.working("first", forked=False) as worker:
        yield worker


def dispatch(client: httpx2.Client) -> dict[str, object]:
    found: dict[str, object] = client.get("/api/v1/stats").json()["dispatch"]
    return found


@with_redis
def test_a_broker_that_is_down_slows_no_create_and_all_jobs_are_done_when_it_is_back(
    town: Town, client: httpx2.Client, gate: Gate, request: pytest.FixtureRequest
) -> None:
    until(lambda: dispatch(client)["broker"] == "ok")
    gate.shut()
    until(lambda: dispatch(client)["broker"] == "down")
    jobs, times = [], []
    for number in range(15):
        began = time.monotonic()
        jobs.append(town.submit(client, f"while it is down {number}"))
        times.append(time.monotonic() - began)
    assert sorted(times)[len(times) // 2] < 0.2
    assert max(times) < 1
    until(lambda: dispatch(client)["undispatched"] == 15)
    gate.open()
    # Not before: a worker tells its broker of jobs too.
    request.getfixturevalue("worker")
    assert {(job["status"], job["attempt"]) for job in (over(client, one) for one in jobs)} == {("completed", 1)}
    until(lambda: dispatch(client) == {"broker": "ok", "undispatched": 0, "oldest_undispatched_age": 0})


@with_redis
def test_what_an_emptied_broker_forgot_is_told_again(
    town: Town, client: httpx2.Client, worker: CeleryWorker, redis: Redis, provider: Provider
) -> None:
    busy = [town.submit(client, "wait until it is emptied") for _ in range(4)]
    until(lambda: provider.asked.count("wait until it is emptied") == 4)
    jobs = [town.submit(client, f"forgotten {number}") for number in range(10)]
    # The worker takes a few to be the next.
    until(lambda: redis.llen(QUEUE) >= 5)
    redis.flushdb()
    provider.let("wait until it is emptied")
    until(lambda: client.get("/api/v1/stats").json()["jobs"]["running"] == 0)
    assert "pending" in {client.get(f"/api/v1/jobs/{one}").json()["status"] for one in jobs}
    town.let_half_a_minute_pass()
    done = [over(client, one) for one in busy + jobs]
    assert {(job["status"], job["attempt"]) for job in done} == {("completed", 1)}


def tell(*job_ids: str, queue: str = QUEUE) -> None:
    """Send a message for each, whatever the jobs say."""

    async def publish() -> None:
        app = celery_app(QueueOptions(f"redis://127.0.0.1:{REDIS}/{DATABASE}", {"any": queue}), lambda _: ("", None))
        broker = CeleryBroker(app, {"any": queue})
        assert await broker.publish([Call(one, "any", 0) for one in job_ids]) == ()
        await broker.close()

    asyncio.run(publish())


@with_redis
def test_ten_messages_are_one_run_and_those_of_jobs_that_are_gone_are_dropped(
    town: Town, client: httpx2.Client, worker: CeleryWorker
) -> None:
    cancelled = town.submit(client, "never run", delay_seconds=3600)
    assert client.post(f"/api/v1/jobs/{cancelled}/cancel").json()["status"] == "cancelled"
    doubled = town.submit(client, "run once")
    unknown = str(uuid.uuid4())
    tell(*[doubled] * 10, cancelled, unknown, "no id at all")
    assert over(client, doubled)["attempt"] == 1
    for one, times in ((doubled, 10), (cancelled, 1), (unknown, 1), ("no id at all", 1)):
        # The task of a first attempt has the id of its job.
        until(lambda one=one, times=times: worker.logged(f"[{one}] succeeded") >= times)
    kinds = [event["kind"] for event in client.get(f"/api/v1/jobs/{doubled}/events").json()["events"]]
    assert kinds == ["created", "claimed", "completed"]
    assert client.get(f"/api/v1/jobs/{cancelled}").json()["status"] == "cancelled"
    assert town.provider.asked.count("run once") == 1
    assert "never run" not in town.provider.asked


@with_redis
def test_flower_shows_what_became_of_a_job(
    town: Town, client: httpx2.Client, worker: CeleryWorker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "celery", "-A", "ingle.celery_app", "flower", "--address=127.0.0.1"]
    environ = town.environ(FLOWER_UNAUTHENTICATED_API="1")
    flower = subprocess.Popen([*command, f"--port={port}"], env=environ, cwd=tmp_path, stderr=subprocess.DEVNULL)

    def shown(path: str) -> Any:
        assert flower.poll() is None
        try:
            return httpx2.get(f"http://127.0.0.1:{port}{path}", trust_env=False).json()
        except httpx2.ConnectError:
            return {}

    try:
        # A worker is shown once one of its heartbeats has come.
        until(lambda: shown("/workers?json=1").get("data"))
        good, bad = town.submit(client, "for Flower"), town.submit(client, "", input={})
        until(lambda: {good, bad} <= {name for name, task in shown("/api/tasks").items() if task["timestamp"]})
        until(lambda: shown("/api/tasks")[good]["state"] == "SUCCESS")
        until(lambda: shown("/api/tasks")[bad]["state"] == "FAILURE")
        tasks = shown("/api/tasks")
        assert (tasks[good]["name"], tasks[good]["result"]) == ("ingle.run_job", "'completed'")
        assert tasks[bad]["exception"] == "JobFailed('bad_input')"
    finally:
        flower.kill()
        flower.wait(30)


@with_redis
def test_a_worker_whose_broker_is_deaf_takes_over_from_a_killed_one_and_gives_back_what_it_cannot_end(
    town: Town, client: httpx2.Client, worker: CeleryWorker, provider: Provider
) -> None:
    ends, killed_at, lasts = "wait a little", "wait for the kill", "wait for ever"
    gate = Gate(REDIS)
    broker = f"redis://127.0.0.1:{gate.port}/{DATABASE}"
    held = town.submit(client, killed_at)
    until(lambda: killed_at in provider.asked)
    with town.working("deaf", CELERY_BROKER_URL=broker, INGLE_WORKER_POLL_INTERVAL="100ms") as deaf:
        gate.silence()
        worker.process.kill()
        began = time.monotonic()
        until(lambda: provider.asked.count(killed_at) == 2)
        assert time.monotonic() - began < LEASE + 5
        provider.let(killed_at)
        job = over(client, held)
        assert (job["status"], job["attempt"], job["failure_count"]) == ("completed", 2, 1)
        assert job["attempts"][0]["error_code"] == "stale_worker"
        first, last = town.submit(client, ends), town.submit(client, lasts)
        until(lambda: {ends, lasts} <= set(provider.asked))
        deaf.process.send_signal(signal.SIGTERM)
        provider.let(ends)
        assert over(client, first)["status"] == "completed"
        assert deaf.process.wait(30) == 0, "".join(deaf.lines)
    job = client.get(f"/api/v1/jobs/{last}").json()
    assert (job["status"], job["attempt"], job["failure_count"], job["snooze_count"]) == ("pending", 1, 0, 1)
    gate.shut()


@with_redis
@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_on_postgres_too_what_a_broker_forgot_is_told_again_and_what_it_doubled_is_run_once(
    database: str, redis: Redis, provider: Provider, tmp_path: Path
) -> None:
    queue = f"ingle-test-{uuid.uuid4().hex}"
    town = town_of(tmp_path, provider, f"redis://127.0.0.1:{REDIS}/{DATABASE}", database)
    town.settings["INGLE_CELERY_QUEUES"] = ",".join(f"{task}={queue}" for task in HANDLED_TYPES)
    first, later = "wait on postgres", [f"on postgres {number}" for number in range(10)]
    with town.serving() as client, town.working("second") as worker:
        busy = [town.submit(client, first) for _ in range(4)]
        until(lambda: provider.asked.count(first) == 4)
        jobs = [town.submit(client, text) for text in later]
        until(lambda: redis.llen(queue) >= 5)
        redis.delete(queue)
        provider.let(first)
        until(lambda: client.get("/api/v1/stats").json()["jobs"]["running"] == 0)
        assert "pending" in {client.get(f"/api/v1/jobs/{one}").json()["status"] for one in jobs}
        town.let_half_a_minute_pass()
        assert {(job["status"], job["attempt"]) for job in (over(client, one) for one in busy + jobs)} == {
            ("completed", 1)
        }
        cancelled = town.submit(client, "never run on postgres", delay_seconds=3600)
        client.post(f"/api/v1/jobs/{cancelled}/cancel")
        doubled = town.submit(client, "run once on postgres")
        tell(*[doubled] * 10, cancelled, str(uuid.uuid4()), queue=queue)
        assert over(client, doubled)["attempt"] == 1
        until(lambda: worker.logged(f"[{doubled}] succeeded") >= 10 and worker.logged(f"[{cancelled}] succeeded"))
        assert [provider.asked.count(text) for text in (*later, "run once on postgres")] == [1] * 11
        assert "never run on postgres" not in provider.asked
    redis.delete(queue)


@pytest.mark.rabbitmq
def test_a_job_is_run_that_rabbitmq_told_of(provider: Provider, tmp_path: Path) -> None:
    queue = f"ingle-test-{uuid.uuid4().hex}"
    town = town_of(tmp_path, provider, RABBITMQ)
    queues = ",".join(f"{task}={queue}" for task in HANDLED_TYPES)
    job = new_job(profile=MODEL, input={"user": "over RabbitMQ"})

    async def add() -> None:
        database, _ = open_database(town.settings["INGLE_DATABASE_URL"])
        await SqlJobRepository(database, LocalWakeUp()).add([job])
        await database.close()

    try:
        with town.working("rabbit", INGLE_CELERY_QUEUES=queues) as worker:
            asyncio.run(add())
            until(lambda: worker.logged(f"Task ingle.run_job[{job.id}] succeeded"))
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(30) == 0
        assert worker.logged(f"job {job.id} (llm_chat) is completed") == 1
    finally:
        app = celery_app(QueueOptions(RABBITMQ, {"any": queue}), lambda _: ("", None))
        with app.connection_for_write() as connection:
            app.amqp.queues[queue](connection.default_channel).delete()


__all__ = ["database"]
