"""Tells a broker of jobs, on a thread of its own: every call may take as long as its time-outs say."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from celery import Celery

from application.job_ports import Call
from infrastructure.queue.app import TASK, transport_options

CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
# A broker whose workers are slow must not be filled with the same calls every half minute.
MOST_WAITING = 1000

_log = logging.getLogger("ingle.broker")
T = TypeVar("T")


class CeleryBroker:
    """Broker over Celery. `queues` says which queue each task type goes to; one connection, opened when needed."""

    def __init__(self, app: Celery, queues: Mapping[str, str], *, most_waiting: int = MOST_WAITING) -> None:
        self._app, self._queues, self._most_waiting = app, queues, most_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="broker")
        self._link: Any = None

    async def open_types(self) -> Collection[str] | None:
        """Task types whose queues are not full; None while the broker cannot be reached."""
        return await self._on_thread(self._open_types)

    async def publish(self, calls: Sequence[Call]) -> Collection[str]:
        """Send each, once; the ids of those that were not sent."""
        return await self._on_thread(lambda: self._publish(calls))

    async def close(self) -> None:
        """Close the connection."""
        await self._on_thread(self._drop)
        self._thread.shutdown(wait=False)

    def _on_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- on the thread --------------------------------------------------------------------------------

    def _open_types(self) -> Collection[str] | None:
        try:
            waiting = {name: self._waiting(name) for name in set(self._queues.values())}
        except Exception as error:  # each transport has its own
            self._lost(error)
            return None
        return [task for task, queue in self._queues.items() if waiting[queue] < self._most_waiting]

    def _waiting(self, queue: str) -> int:
        declared = self._app.amqp.queues[queue](self._connected().default_channel).queue_declare()
        return int(declared.message_count)

    def _publish(self, calls: Sequence[Call]) -> Collection[str]:
        for number, call in enumerate(calls):
            try:
                self._send(call)
            except Exception as error:  # each transport has its own
                self._lost(error)
                return [unsent.job_id for unsent in calls[number:]]
        return ()

    def _send(self, call: Call) -> None:
        attempt = call.attempts + 1
        self._app.tasks[TASK].apply_async(
            (call.job_id,),
            task_id=call.job_id if attempt == 1 else f"{call.job_id}-{attempt}",
            queue=self._queues[call.task_type],
            producer=self._app.amqp.Producer(self._connected().default_channel, auto_declare=False),
            retry=False,
        )

    def _connected(self) -> Any:
        if self._link is None:
            url = str(self._app.conf.broker_write_url)
            self._link = self._app.connection_for_write(
                connect_timeout=CONNECT_SECONDS,
                transport_options={**transport_options(url), **_bounds(url), "max_retries": 0},
            )
        return self._link

    def _lost(self, error: Exception) -> None:
        _log.debug("no broker: %s", type(error).__name__)
        self._drop()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(Exception):  # it is broken, or was
                link.release()


def _bounds(broker_url: str) -> dict[str, object]:
    """How long an answer may take, and that there is to be one."""
    if broker_url.startswith("redis"):
        return {"socket_timeout": _ANSWER_SECONDS}
    if broker_url.startswith("amqp"):
        return {"read_timeout": _ANSWER_SECONDS, "write_timeout": _ANSWER_SECONDS, "confirm_publish": True}
    return {}
