"""Jobs in a Celery worker: all that is ours runs on one event loop, in a thread; Celery's threads wait for it."""

import asyncio
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future

import uvloop

from application.worker import Worker
from domain.job import JobStatus
from ingle.celery_dispatch import queues_of
from ingle.settings import Settings

NOTHING = "nothing to do"


class CeleryProcess:
    """Runs the jobs of a Celery worker. `start`, `run_job`, `stop` and `close` may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._worker: Worker | None = None
        self._stopping: asyncio.Future[float] | None = None

    def start(self, queues: Collection[str], limit: int, give_up: Callable[[], None]) -> None:
        """Begin, for the task types of `queues`; `give_up` is called when the work ends by itself.

        Raises BadSettings, IngleError.
        """
        types = [task for task, queue in queues_of(self._settings).items() if queue in queues]
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: uvloop.run(self._work(types, limit, ready, give_up)), name="jobs", daemon=True
        )
        self._thread.start()
        ready.result()

    async def _work(
        self, task_types: Collection[str], limit: int, ready: "Future[None]", give_up: Callable[[], None]
    ) -> None:
        try:
            # Here and not above: Flower and `celery inspect` import this module too, and load no weights' libraries.
            from ingle.bootstrap import build
            from ingle.job_application import Share, job_application
            from ingle.worker_process import work_until

            application = build(self._settings)
            jobs = job_application(self._settings, application.services, kind="celery", share=Share(task_types, limit))
        except Exception as error:  # whoever started this thread is to hear of it
            ready.set_exception(error)
            return
        loop = asyncio.get_running_loop()
        stopping: asyncio.Future[float] = loop.create_future()
        self._worker, self._stopping, self._loop = jobs.worker, stopping, loop
        ready.set_result(None)
        try:
            await work_until(stopping, application, jobs)
        finally:
            if stopping.cancelled():
                give_up()

    def run_job(self, job_id: str) -> tuple[str, str | None]:
        """Run that job to its end: (its status, the code of a failure); ("nothing to do", None) where it is not ours.

        Blocks.
        """
        if self._loop is None or self._worker is None:
            return NOTHING, None
        settled = asyncio.run_coroutine_threadsafe(self._worker.run_job(job_id), self._loop).result()
        if settled is None:
            return NOTHING, None
        job = settled.job
        failed = job.finished_as == "failed" and job.status is not JobStatus.CANCELLED
        return str(job.status), job.error_code if failed else None

    def stop(self, *, at_once: bool) -> None:
        """Take no more jobs; let those at work end within the drain time, or give them back at once."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._let_end, 0.0 if at_once else self._settings.drain)

    def _let_end(self, seconds: float) -> None:
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(seconds)

    def close(self) -> None:
        """Wait until all has ended."""
        if self._thread is not None:
            self._thread.join()
