"""What Ingle makes of Celery, on a broker in memory."""

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from application.job_ports import Call
from infrastructure.queue.app import TASK, JobFailed, QueueOptions, celery_app
from infrastructure.queue.broker import CeleryBroker

RunJob = Any


class Post:
    """An application with queues of its own (all brokers in memory are one), and a broker that tells it of jobs."""

    def __init__(self, run_job: RunJob = lambda _: ("completed", None), **options: Any) -> None:
        self.llm, self.speech = f"llm-{uuid.uuid4().hex}", f"speech-{uuid.uuid4().hex}"
        queues = {"llm_chat": self.llm, "embed": self.llm, "transcribe": self.speech}
        self.app: Celery = celery_app(QueueOptions("memory://", queues, concurrency=2), run_job)
        self.app.conf.broker_transport_options = {"polling_interval": 0.01}
        self.broker = CeleryBroker(self.app, queues, **options)

    def messages(self, queue: str) -> list[Any]:
        """What waits in `queue`, taken out of it."""
        found = []
        with self.app.connection_for_read() as connection:
            bound = self.app.amqp.queues[queue](connection.default_channel)
            while (message := bound.get()) is not None:
                message.ack()
                found.append(message)
        return found


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    yield made
    await made.broker.close()


async def test_a_message_carries_the_id_of_a_job_and_nothing_that_celery_would_act_upon(post: Post) -> None:
    job = str(uuid.uuid4())
    assert await post.broker.publish([Call(job, "llm_chat", 0)]) == ()
    [message] = post.messages(post.llm)
    assert message.payload[:2] == [[job], {}]
    wanted = {"task": TASK, "id": job, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None]}
    assert {name: message.headers[name] for name in wanted} == wanted
    assert not any(message.payload[2].values())


async def test_each_type_has_its_queue_and_each_attempt_its_task(post: Post) -> None:
    calls = [Call("a", "llm_chat", 0), Call("b", "transcribe", 2), Call("c", "embed", 1)]
    assert set(await post.broker.open_types() or ()) == {"llm_chat", "embed", "transcribe"}
    await post.broker.publish(calls)
    assert [message.headers["id"] for message in post.messages(post.llm)] == ["a", "c-2"]
    assert [message.headers["id"] for message in post.messages(post.speech)] == ["b-3"]


async def test_a_queue_that_is_full_takes_no_more_types_and_the_other_does() -> None:
    post = Post(most_waiting=2)
    await post.broker.publish([Call(str(n), "llm_chat", 0) for n in range(2)])
    assert await post.broker.open_types() == ["transcribe"]
    post.messages(post.llm)
    assert len(await post.broker.open_types() or ()) == 3
    await post.broker.close()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"])
async def test_a_broker_that_is_away_is_told_so_and_sends_nothing(url: str) -> None:
    app = celery_app(QueueOptions(url, {"llm_chat": "llm"}), lambda _: ("", None))
    broker = CeleryBroker(app, {"llm_chat": "llm"})
    began = asyncio.get_running_loop().time()
    assert await broker.open_types() is None
    assert await broker.publish([Call("a", "llm_chat", 0), Call("b", "llm_chat", 0)]) == ["a", "b"]
    assert asyncio.get_running_loop().time() - began < 1
    await broker.close()


def test_the_setting_outranks_the_variable_that_celery_reads_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://elsewhere")
    app = celery_app(QueueOptions("memory://", {"llm_chat": "llm"}), lambda _: ("", None))
    assert {app.connection_for_read().transport_cls, app.connection_for_write().transport_cls} == {"memory"}


def test_an_attempt_that_failed_is_a_failed_task_and_is_not_tried_again() -> None:
    task = Post(lambda _: ("pending", "timeout")).app.tasks[TASK]
    result = task.apply(("a",))
    assert (result.state, type(result.result), str(result.result)) == ("FAILURE", JobFailed, "timeout")
    assert (task.max_retries, task.throws, task.acks_late, task.ignore_result) == (0, (JobFailed,), False, True)


async def test_a_worker_runs_what_its_queue_says_on_several_threads() -> None:
    runs: Counter[str] = Counter()
    meeting, done = threading.Barrier(2), threading.Event()

    def run_job(job_id: str) -> tuple[str, str | None]:
        runs[job_id] += 1
        meeting.wait(10)
        if runs.total() == 4:
            done.set()
        return "completed", None

    post = Post(run_job)
    await post.broker.publish([Call(one, "llm_chat", 0) for one in "abcd"])
    await post.broker.publish([Call("of another queue", "transcribe", 0)])
    with start_worker(post.app, pool="threads", concurrency=2, perform_ping_check=False, queues=[post.llm]):
        assert await asyncio.to_thread(done.wait, 10)
    assert runs == Counter("abcd")
    assert len(post.messages(post.speech)) == 1
    await post.broker.close()
