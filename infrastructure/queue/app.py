"""The Celery application: one task, whose message is the id of a job and nothing else.

The row of the job has its retries, its delay, its time-out and its cancellation, and its lease is the redelivery; so
all of Celery's own is off.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from celery import Celery

TASK = "ingle.run_job"

_RunJob = Callable[[str], tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Where the broker is, which queue each task type goes to, and how many jobs a worker runs at a time."""

    broker_url: str
    queues: Mapping[str, str]
    concurrency: int = 4


class JobFailed(Exception):
    """An attempt ended with this code, and that is written; for Flower to show."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def celery_app(options: QueueOptions, run_job: _RunJob) -> Celery:
    """The application. `run_job` blocks until the job is over: (a word for what came of it, the code of a failure)."""
    app = Celery("ingle", set_as_current=False)
    app.conf.update(
        # Celery's own variables of the environment would outrank `broker_url` alone.
        broker_url=options.broker_url,
        broker_read_url=options.broker_url,
        broker_write_url=options.broker_url,
        broker_connection_retry_on_startup=True,
        broker_transport_options=transport_options(options.broker_url),
        result_backend=None,
        accept_content=["json"],
        task_serializer="json",
        task_queues={name: {"routing_key": name} for name in sorted(set(options.queues.values()))},
        task_create_missing_queues=False,
        task_default_queue=min(options.queues.values()),
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_track_started=True,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_pool="threads",
        worker_concurrency=options.concurrency,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )

    @app.task(name=TASK, ignore_result=True, max_retries=0, acks_late=False, throws=(JobFailed,), shared=False)  # type: ignore[untyped-decorator]
    def run(job_id: str) -> str:
        status, failure = run_job(str(job_id))
        if failure is not None:
            raise JobFailed(failure)
        return status

    return app


def transport_options(broker_url: str) -> dict[str, object]:
    """How a connection is made, by the kind of the broker."""
    if broker_url.startswith("redis"):
        return {"socket_connect_timeout": 1.0, "socket_keepalive": True}
    return {}
