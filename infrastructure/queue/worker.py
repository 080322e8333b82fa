"""A Celery worker as the host of ours: when it starts, which queues it hears, how it ends."""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn, Protocol

from celery import Celery, signals
from celery.concurrency.thread import TaskPool
from celery.worker import state

_log = logging.getLogger("ingle.celery")
# Seconds that Celery has to leave once all jobs have ended.
_PATIENCE = 3.0


class Hosted(Protocol):
    """What runs jobs inside a Celery worker, on threads of its own."""

    def start(self, queues: Collection[str], limit: int, give_up: Callable[[], None]) -> None:
        """Begin, for the task types of `queues`; `give_up` ends the Celery worker as failed."""
        ...

    def stop(self, *, at_once: bool) -> None:
        """Take no more jobs; end or give back those at work. Returns at once: a signal handler calls it."""
        ...

    def close(self) -> None:
        """Wait until all has ended."""
        ...


def host(app: Celery, hosted: Hosted, configure_logging: Callable[[int], None]) -> None:
    """Let a worker of `app` start and stop `hosted`. A second signal ends the process at once: leases heal the rest."""
    stopping = False

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def log(loglevel: int, **_: Any) -> None:
        configure_logging(loglevel)

    @signals.celeryd_after_setup.connect(weak=False)  # type: ignore[untyped-decorator]
    def start(instance: Any, **_: Any) -> None:
        if instance.app is not app:
            return
        if not issubclass(instance.pool_cls, TaskPool):
            refuse("one process owns the models, so --pool must be threads")
        try:
            hosted.start(list(app.amqp.queues.consume_from), instance.concurrency, give_up)
        except Exception as error:  # whatever it is, there must not be a worker that runs nothing
            refuse(str(error))

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def stop(how: str, **_: Any) -> None:
        nonlocal stopping
        if stopping:
            os._exit(1)
        stopping = True
        hosted.stop(at_once=how == "Cold")
        threading.Thread(target=leave, name="leave", daemon=True).start()

    def leave() -> None:
        # Celery waits for ever for the answer of a broker that hangs.
        hosted.close()
        time.sleep(_PATIENCE)
        os._exit(0)

    @signals.worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    def close(**_: Any) -> None:
        hosted.stop(at_once=False)
        hosted.close()

    def give_up() -> None:
        state.should_stop = os.EX_CONFIG


def refuse(reason: str) -> NoReturn:
    """End the start. Celery logs what a receiver of its signals raises and goes on; this it does not catch."""
    _log.error("the worker cannot start: %s", reason)
    raise SystemExit(os.EX_CONFIG)
