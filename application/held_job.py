"""A job that a worker holds: its work, why it was stopped, and what is to be reported of it."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from application.job_handlers import JobDone, JobHandler, Weigh, failure_of
from application.off_loop import off_loop
from domain.errors import IngleError, RequestCancelled, ServerDraining
from domain.job import Job
from domain.job_repository import Complete, Fail, Heartbeat, Release

_log = logging.getLogger("ingle.worker")


class Why(Enum):
    """Why work is stopped before it is done."""

    CANCELLED = auto()
    TIMEOUT = auto()
    LOST = auto()
    STOPPING = auto()


class HeldJob:
    """A job at work from the start. `settling` is set while its report is being written."""

    def __init__(self, job: Job, handler: JobHandler) -> None:
        self.job = job
        self.token = job.lease_token or ""
        self.why: Why | None = None
        self.settling = False
        self._reason: str | None = None
        self._progress: Mapping[str, Any] | None = None
        self._work: asyncio.Task[JobDone] = asyncio.ensure_future(handler(job, self._tell))

    def _tell(self, progress: Mapping[str, Any]) -> None:
        self._progress = progress

    @property
    def beat(self) -> Heartbeat:
        """The sign of life that is due."""
        return Heartbeat(self.job.id, self.token, self.job.attempt, self._progress)

    async def end(self) -> None:
        """Return when the work has ended, which the deadline brings about at the latest."""
        try:
            await asyncio.wait({self._work}, timeout=self.job.timeout_ms / 1000)
            self.stop(Why.TIMEOUT)
            await asyncio.wait({self._work})
        finally:
            self._work.cancel()

    def stop(self, why: Why, reason: str | None = None) -> None:
        """End the work; the first reason counts."""
        if self.why is None and not self._work.done():
            self.why, self._reason = why, reason
            self._work.cancel()

    async def report(self, weigh: Weigh, most: int) -> Complete | Fail | Release | None:
        """What is to be written of the ended work, its result of at most `most` bytes.

        None where the job is somebody else's by now.
        """
        if self.why is Why.LOST:
            return None
        if not self._work.cancelled():
            error = self._work.exception()
            if error is None:
                return await self._done(self._work.result(), weigh, most)
            if not isinstance(error, Exception):
                raise error
            if not isinstance(error, IngleError):
                self._log_mistake(error)
            if self.why is None and not isinstance(error, RequestCancelled | ServerDraining):
                return failure_of(error)
        match self.why:
            case Why.CANCELLED:
                return Fail("cancelled", self._reason)
            case Why.TIMEOUT:
                return Fail("timeout", f"the attempt took longer than {self.job.timeout_ms / 1000:g} s")
            case _:
                return Release(reason=self._reason or "the work was ended from outside")

    async def _done(self, done: JobDone, weigh: Weigh, most: int) -> Complete | Fail:
        """The report of a result, which wins over a cancel that was only asked for, if it can be kept."""
        try:
            weighed = await off_loop(done.result, partial(weigh, done.result))
        except (ValueError, TypeError) as error:
            self._log_mistake(error)
            return failure_of(error)
        if weighed.size > most:
            return Fail("payload_too_large", f"the result has {weighed.size} bytes; {most} are allowed")
        return Complete(done.result, weighed.sha256, done.usage)

    def _log_mistake(self, error: Exception) -> None:
        _log.error("unhandled error in job %s (%s)", self.job.id, self.job.task_type, exc_info=error)


@dataclass(slots=True)
class ReportPauses:
    """Seconds between tries to write a report, for ever."""

    seconds: float = 0.2

    def __iter__(self) -> "ReportPauses":
        return self

    def __next__(self) -> float:
        pause, self.seconds = self.seconds, min(5.0, 2 * self.seconds)
        return pause
