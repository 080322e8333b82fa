"""The worker of a process: claims jobs, runs them under a heartbeat, and reports what came of them.

Authority over a job is its lease, which the heartbeat prolongs: a worker that hears that it has lost a job drops the
work and reports nothing. A database that is away for a while stops nothing; the report is tried until it is written.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from application.held_job import HeldJob, ReportPauses, Why
from application.job_handlers import JobHandler, Weigh
from application.job_ports import JobRules, WakeUp, WorkerRecord, WorkerRegister
from application.worker_options import FIRST_POLL, Pace, Profiles, WorkerOptions
from domain.errors import IngleError, JobNotFound
from domain.job import Job
from domain.job_repository import (
    Claim,
    Complete,
    Extension,
    Fail,
    JobRepository,
    Reap,
    Release,
    Settled,
    Settlement,
)

_SEEN_SECONDS = 10.0

_TOLD_TO_STOP = "the worker was told to stop"

_log = logging.getLogger("ingle.worker")


class Worker:
    """Runs at most `limit` jobs at a time, of the types that `handlers` name and the profiles that can be run."""

    def __init__(
        self,
        jobs: JobRepository,
        rules: JobRules,
        register: WorkerRegister,
        wake_up: WakeUp,
        handlers: Mapping[str, JobHandler],
        profiles: Profiles,
        weigh: Weigh,
        options: WorkerOptions,
    ) -> None:
        self._jobs = jobs
        self._rules = rules
        self._register = register
        self._wake_up = wake_up
        self._handlers = handlers
        self._profiles = profiles
        self._weigh = weigh
        self._options = options
        self._held: dict[asyncio.Task[Settled | None], HeldJob] = {}
        # Places that are kept for claims under way.
        self._kept = 0
        self._freed = asyncio.Event()
        self._hint = asyncio.Event()
        self._stopping = False

    @property
    def task_types(self) -> Collection[str]:
        """What it runs."""
        return self._handlers.keys()

    async def run(self) -> None:
        """Claim and run jobs until `stop`; jobs that are held then go on until `drain` or their end."""
        hinted, every = self._options.hinted, self._options.poll_seconds
        forget = self._wake_up.listen(lambda _: self._hint.set() if hinted else None)
        beating = asyncio.create_task(self._beat_forever(), name="worker heartbeat")
        pace = Pace(every, FIRST_POLL if hinted else every)
        looks = hinted
        try:
            while not self._stopping:
                self._hint.clear()
                if looks and await self._claim():
                    pace.reset()
                    continue
                looks = True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hint.wait(), pace.next())
                    pace.reset()
            if self._held:
                await asyncio.wait(self._held)
        finally:
            forget()
            for held in self._held.values():
                held.stop(Why.STOPPING, _TOLD_TO_STOP)
            beating.cancel()
            await asyncio.gather(beating, *self._held, return_exceptions=True)
            with contextlib.suppress(IngleError):
                await self._register.forget([self._options.worker_id])

    async def run_job(self, job_id: str) -> Settled | None:
        """Claim that job and run it to its end; what was reported of it.

        None where it is not to be had (gone, taken, over, held, deferred), cannot be run here, or was lost.
        """
        try:
            job = await self._claim_by_id(job_id)
        except IngleError as error:
            _log.warning("job %s cannot be claimed: %s (%s)", job_id, error, error.code)
            return None
        if job is None:
            return None
        task = self._start(job)
        await asyncio.wait({task})
        return task.result()

    def stop(self) -> None:
        """Claim nothing any more."""
        self._stopping = True
        self._hint.set()
        self._freed.set()

    async def drain(self, seconds: float) -> None:
        """Let what runs end, for so long; give back the rest."""
        self.stop()
        if self._held:
            await asyncio.wait(self._held, timeout=seconds)
        for held in self._held.values():
            held.stop(Why.STOPPING, _TOLD_TO_STOP)
        if self._held:
            await asyncio.wait(self._held)

    async def take_over(self, is_alive: Callable[[int], bool]) -> None:
        """Free the jobs of earlier processes of this name on this host that are dead; `is_alive` knows by pid."""
        mine = self._options
        dead = [
            one.worker_id
            for one in await self._register.workers()
            if (one.name, one.host) == (mine.name, mine.host)
            and one.worker_id != mine.worker_id
            and (one.pid == mine.pid or not is_alive(one.pid))
        ]
        if dead:
            freed = await self._jobs.sweep(Reap(dead))
            await self._register.forget(dead)
            _log.info("%d jobs of dead workers are free again", freed)

    # -- claiming -------------------------------------------------------------------------------------

    async def _claim(self) -> bool:
        """Take what there is room for; whether anything was taken."""
        room = self._room
        if room <= 0:
            return False
        self._keep(room)
        try:
            profiles = [profile for profile in await self._rules.waiting() if self._profiles.runs(profile)]
            if not profiles or self._stopping:
                return False
            claim = Claim(
                self._options.worker_id,
                room,
                tuple(self._handlers),
                profiles,
                loaded=self._profiles.loaded(profiles),
            )
            taken = await self._jobs.claim(claim)
        except IngleError as error:
            _log.warning("no jobs can be claimed: %s (%s)", error, error.code)
            return False
        finally:
            self._keep(-room)
        if self._stopping:
            await self._give_back(taken)
            return False
        for job in taken:
            # There may be more where they came from.
            self._start(job).add_done_callback(lambda _: self._hint.set())
        return bool(taken)

    @property
    def _room(self) -> int:
        return self._options.limit - len(self._held) - self._kept

    def _keep(self, places: int) -> None:
        self._kept += places
        if places < 0:
            self._freed.set()

    async def _claim_by_id(self, job_id: str) -> Job | None:
        while self._room <= 0 and not self._stopping:
            self._freed.clear()
            await self._freed.wait()
        if self._stopping:
            return None
        self._keep(1)
        try:
            job = await self._jobs.get(job_id)
            if job.task_type not in self._handlers or not self._profiles.runs(job.model_profile):
                return None
            taken = await self._jobs.claim(Claim(self._options.worker_id, 1, job_id=job_id))
        except JobNotFound:
            return None
        finally:
            self._keep(-1)
        if self._stopping:
            await self._give_back(taken)
            return None
        return taken[0] if taken else None

    def _start(self, job: Job) -> "asyncio.Task[Settled | None]":
        held = HeldJob(job, self._handlers[job.task_type])
        task = asyncio.create_task(self._run(held), name=f"job {job.id}")
        self._held[task] = held
        task.add_done_callback(self._let_go)
        return task

    async def _give_back(self, taken: Sequence[Job]) -> None:
        """The worker was stopped while it claimed these."""
        for job in taken:
            with contextlib.suppress(IngleError):
                await self._jobs.settle(Settlement(job.id, Release(reason=_TOLD_TO_STOP), job.lease_token))

    def _let_go(self, task: "asyncio.Task[Settled | None]") -> None:
        del self._held[task]
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a job could not be reported", exc_info=error)

    # -- running --------------------------------------------------------------------------------------

    async def _run(self, held: HeldJob) -> Settled | None:
        await held.end()
        report = await held.report(self._weigh, self._options.result_bytes)
        if report is None:
            return None
        held.settling = True
        return await self._settle(held, report)

    async def _settle(self, held: HeldJob, report: Complete | Fail | Release) -> Settled | None:
        """Write the report, however long the database is away; whoever has lost the job leaves it."""
        job = held.job
        settlement = Settlement(job.id, report, held.token, job.attempt)
        for pause in ReportPauses():
            try:
                settled = await self._jobs.settle(settlement)
            except IngleError as error:
                if not error.retryable or self._hopeless(held):
                    _log.warning("the report of job %s was not taken: %s (%s)", job.id, error, error.code)
                    return None
                await asyncio.sleep(pause)
                continue
            _log.info("job %s (%s) is %s", job.id, job.task_type, settled.job.status)
            return settled
        return None

    def _hopeless(self, held: HeldJob) -> bool:
        """Whether a report that cannot be written is not worth waiting for: the lease heals it."""
        return held.why in (Why.LOST, Why.STOPPING)

    # -- the heartbeat --------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        seen_at = -_SEEN_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() - seen_at >= _SEEN_SECONDS:
                seen_at = loop.time()
                with contextlib.suppress(IngleError):
                    await self._register.seen(self._record())
            await self._beat()
            await asyncio.sleep(self._options.beat_seconds)

    async def _beat(self) -> None:
        """Prolong every lease in one statement; stop what was lost, cancelled or took too long."""
        held = [one for one in self._held.values() if one.why is not Why.LOST]
        if not held:
            return
        try:
            answers = await self._jobs.extend([one.beat for one in held])
        except IngleError as error:
            # The work goes on: nobody else can have the job while the database is away.
            _log.warning("no heartbeat: %s (%s)", error, error.code)
            return
        for one, answer in zip(held, answers, strict=True):
            if not isinstance(answer, Extension):
                # A report may have been written since.
                if not one.settling:
                    one.stop(Why.LOST)
            elif answer.cancel_reason == "timeout":
                one.stop(Why.TIMEOUT)
            elif answer.cancel_requested:
                one.stop(Why.CANCELLED, answer.cancel_reason)

    def _record(self) -> WorkerRecord:
        mine = self._options
        profiles = tuple(sorted({held.job.model_profile for held in self._held.values()}))
        return WorkerRecord(mine.worker_id, mine.name, mine.kind, mine.host, mine.pid, profiles)
