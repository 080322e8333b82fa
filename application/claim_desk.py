"""Claims that may wait for work: one line for each process, one poller for the whole line.

Whoever waits is served in the order of arrival. A hint, or the next poll, is tried on the first in line; while there is
work the next one is tried, so 500 who wait cost one statement when there is nothing.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from application.attendance import Attendance
from application.job_ports import WakeUp
from domain.errors import IngleError
from domain.job import Job
from domain.job_repository import Claim, JobRepository, Release, Settlement

Wish = tuple[frozenset[str], frozenset[str]]


@dataclass(eq=False, slots=True)
class _Waiting:
    claim: Claim
    answer: "asyncio.Future[Sequence[Job]]"

    @property
    def wish(self) -> Wish:
        """Two with the same wish find the same: where one got nothing, the other need not ask."""
        return frozenset(self.claim.task_types), frozenset(self.claim.model_profiles)


class ClaimDesk:
    """Claims at once, or waits for work to claim. After `stop` nobody gets anything."""

    def __init__(
        self, jobs: JobRepository, wake_up: WakeUp, attendance: Attendance | None = None, *, poll_seconds: float = 0.2
    ) -> None:
        self._jobs = jobs
        self._attendance = attendance
        self._wake_up = wake_up
        self._poll_seconds = poll_seconds
        self._line: deque[_Waiting] = deque()
        self._poller: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()
        self._stopped = False

    async def claim(self, claim: Claim, wait_seconds: float = 0.0) -> Sequence[Job]:
        """Jobs, or none when `wait_seconds` are over. Cancelling the awaiting task gives back what it was given."""
        if self._stopped:
            return ()
        if self._attendance is not None:
            await self._attendance.note(claim.worker_id, claim.model_profiles)
        jobs = await self._claim_now(claim)
        if jobs or not wait_seconds or self._stopped:
            return jobs
        waiting = _Waiting(claim, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._poll()
        try:
            await asyncio.wait({waiting.answer}, timeout=wait_seconds)
        except asyncio.CancelledError:
            if waiting.answer.done() and not waiting.answer.exception():
                await asyncio.shield(self._give_back(waiting.answer.result()))
            raise
        finally:
            waiting.answer.cancel()
            with contextlib.suppress(ValueError):
                self._line.remove(waiting)
        return waiting.answer.result() if not waiting.answer.cancelled() else ()

    async def _claim_now(self, claim: Claim) -> Sequence[Job]:
        """What there is. A caller that leaves meanwhile leaves no job held: the claim is written all the same."""
        task = asyncio.ensure_future(self._jobs.claim(claim))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back_when_claimed(task))
            raise

    async def _give_back_when_claimed(self, task: "asyncio.Future[Sequence[Job]]") -> None:
        with contextlib.suppress(IngleError):
            await self._give_back(await task)

    def stop(self) -> None:
        """Answer everybody who waits with nothing, now and from now on."""
        self._stopped = True
        for waiting in self._line:
            if not waiting.answer.done():
                waiting.answer.set_result(())
        self._line.clear()

    def _poll(self) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._serve(), name="claim desk")

    async def _serve(self) -> None:
        """Until nobody waits: whenever there may be work, serve whom there is work for."""
        forget = self._wake_up.listen(self._on_hint)
        try:
            while self._line:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hint.wait(), self._poll_seconds)
                self._hint.clear()
                await self._serve_line()
        finally:
            forget()

    def _on_hint(self, profiles: Collection[str]) -> None:
        del profiles
        self._hint.set()

    async def _serve_line(self) -> None:
        in_vain: set[Wish] = set()
        for waiting in list(self._line):
            if waiting.answer.done() or waiting.wish in in_vain:
                continue
            try:
                jobs = await self._jobs.claim(waiting.claim)
            except IngleError as error:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
                continue
            if not jobs:
                in_vain.add(waiting.wish)
            elif waiting.answer.done():
                await self._give_back(jobs)
            else:
                waiting.answer.set_result(jobs)

    async def _give_back(self, jobs: Sequence[Job]) -> None:
        """Their worker has left before it heard of them."""
        for job in jobs:
            # What cannot be given back is free again when its lease is over.
            with contextlib.suppress(IngleError):
                await self._jobs.settle(
                    Settlement(job.id, Release(reason="the worker left before the answer"), job.lease_token)
                )
