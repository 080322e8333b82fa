"""A process that runs jobs and serves nothing."""

import asyncio
import os
import signal

import structlog

from domain.errors import IngleError
from ingle.bootstrap import build
from ingle.job_application import job_application
from ingle.settings import Settings

_log = structlog.get_logger("ingle")


async def work(settings: Settings) -> bool:
    """Run jobs until SIGTERM or SIGINT, then let them end; False if the database cannot be used."""
    application = build(settings)
    jobs = job_application(settings, application.services, kind="worker")
    stopping = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():
            _log.warning("stopping at once", signal=number.name)
            os._exit(1)
        _log.info("stopping when the jobs at work are done", signal=number.name)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    working = asyncio.create_task(jobs.run(), name="jobs")
    told = asyncio.create_task(stopping.wait(), name="stop")
    _log.info("working", worker=settings.worker_id)
    try:
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
        await jobs.stop(settings.drain)
        if not working.done():
            working.cancel()
        await asyncio.wait({working})
        if not working.cancelled() and (error := working.exception()) is not None:
            if not isinstance(error, IngleError):
                raise error
            _log.error("the database of jobs cannot be used", code=error.code, reason=str(error))
            return False
    finally:
        told.cancel()
        await application.close()
        await jobs.close()
        _log.info("stopped")
    return True
