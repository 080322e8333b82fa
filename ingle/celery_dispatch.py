"""What the settings say of the broker, and the dispatcher that tells it of jobs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from application.dispatcher import Dispatcher
from application.job_queue import HANDLED_TYPES, SPEECH_TYPES
from ingle.bootstrap_jobs import JobKeeping
from ingle.settings import Settings
from ingle.settings_sources import BadSettings

if TYPE_CHECKING:
    from infrastructure.queue.app import QueueOptions

MISSING = 'Celery is not installed: pip install "ingle[celery]"'


def queues_of(settings: Settings) -> Mapping[str, str]:
    """The queue of every task type that Ingle runs."""
    usual = {task: "speech" if task in SPEECH_TYPES else "llm" for task in HANDLED_TYPES}
    return {task: settings.celery_queues.get(task, queue) for task, queue in usual.items()}


def queue_options(settings: Settings) -> "QueueOptions":
    """What the Celery application is made of. Raises BadSettings without a broker, or without Celery."""
    try:
        from infrastructure.queue.app import QueueOptions
    except ModuleNotFoundError:
        raise BadSettings([MISSING]) from None
    if settings.celery_broker_url is None:
        raise BadSettings(["celery_broker_url: a Celery worker needs a broker, such as redis://127.0.0.1:6379/0"])
    url = settings.celery_broker_url.get_secret_value()
    return QueueOptions(url, queues_of(settings), settings.worker_claim_limit)


def dispatcher(settings: Settings, keeping: JobKeeping) -> Dispatcher:
    """The dispatcher, as quick as other chores of the queue. Raises as `queue_options` does."""
    options = queue_options(settings)
    from infrastructure.queue.app import celery_app
    from infrastructure.queue.broker import CeleryBroker

    broker = CeleryBroker(celery_app(options, lambda _: ("", None)), options.queues)
    return Dispatcher(keeping.dispatchable, broker, keeping.wake_up, round_seconds=settings.jobs_reap_interval)
