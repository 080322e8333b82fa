"""A process that runs jobs and serves nothing."""

import asyncio
import os
import signal
from typing import Any

import structlog

from domain.errors import IngleError
from ingle.bootstrap import Application, build
from ingle.job_application import JobApplication, job_application
from ingle.settings import Settings

_log = structlog.get_logger("ingle")


async def work(settings: Settings) -> bool:
    """Run jobs until SIGTERM or SIGINT, then let them end; False if the database cannot be used."""
    application = build(settings)
    jobs = job_application(settings, application.services, kind="worker")
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[float] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if stopping.done():
            _log.warning("stopping at once", signal=number.name)
            os._exit(1)
        _log.info("stopping when the jobs at work are done", signal=number.name)
        stopping.set_result(settings.drain)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    _log.info("working", worker=settings.worker_id)
    return await work_until(stopping, application, jobs)


async def work_until(stopping: "asyncio.Future[float]", application: Application, jobs: JobApplication) -> bool:
    """Run jobs until `stopping` says how many seconds they have to end, and close all; False without a database."""
    working = asyncio.create_task(jobs.run(), name="jobs")
    try:
        either: set[asyncio.Future[Any]] = {working, stopping}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        await jobs.stop(stopping.result() if stopping.done() else 0)
        if not working.done():
            working.cancel()
        await asyncio.wait({working})
        if not working.cancelled() and (error := working.exception()) is not None:
            if not isinstance(error, IngleError):
                raise error
            _log.error("the database of jobs cannot be used", code=error.code, reason=str(error))
            return False
    finally:
        stopping.cancel()
        await application.close()
        await jobs.close()
        _log.info("stopped")
    return True
