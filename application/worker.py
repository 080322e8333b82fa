"""The worker of a process: claims jobs, runs them under a heartbeat, and reports what came of them.

Authority over a job is its lease, which the heartbeat prolongs: a worker that hears that it has lost a job drops the
work and reports nothing. A database that is away for a while stops nothing; the report is tried until it is written.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from application.held_job import HeldJob, ReportPauses, Why
from application.job_handlers import JobHandler
from application.job_ports import JobRules, WakeUp, WorkerRecord, WorkerRegister
from domain.errors import IngleError
from domain.job import Job
from domain.job_repository import Claim, Complete, Extension, Fail, JobRepository, Reap, Release, Settlement

_FIRST_POLL = 0.2
_BEAT_SECONDS = 1.0
_SEEN_SECONDS = 10.0

_TOLD_TO_STOP = "the worker was told to stop"

_log = logging.getLogger("ingle.worker")


class Profiles(Protocol):
    """Which model profiles can be run here. Cheap, and raises nothing."""

    def runs(self, profile: str) -> bool:
        """Whether there is a model for it."""
        ...

    def loaded(self, profiles: Collection[str]) -> Collection[str]:
        """Those of `profiles` whose models are in memory."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Who works, how much at a time, and how often it looks. Seconds."""

    worker_id: str
    name: str
    host: str
    pid: int
    kind: str = "embedded"
    limit: int = 4
    poll_seconds: float = 2.0
    beat_seconds: float = _BEAT_SECONDS


@dataclass(slots=True)
class _Pace:
    """How long to wait for the next look: short after work, longer while there is none."""

    most: float
    seconds: float = field(default=_FIRST_POLL)

    def next(self) -> float:
        pause = min(self.seconds, self.most)
        self.seconds = min(2 * self.seconds, self.most)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311

    def reset(self) -> None:
        self.seconds = _FIRST_POLL


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
        digest: Callable[[Any], str],
        options: WorkerOptions,
    ) -> None:
        """`digest` is the hash of a result's canonical JSON."""
        self._jobs = jobs
        self._rules = rules
        self._register = register
        self._wake_up = wake_up
        self._handlers = handlers
        self._profiles = profiles
        self._digest = digest
        self._options = options
        self._held: dict[asyncio.Task[None], HeldJob] = {}
        self._hint = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Claim and run jobs until `stop`; jobs that are held then go on until `drain` or their end."""
        forget = self._wake_up.listen(lambda _: self._hint.set())
        beating = asyncio.create_task(self._beat_forever(), name="worker heartbeat")
        pace = _Pace(self._options.poll_seconds)
        try:
            while not self._stopping:
                self._hint.clear()
                if await self._claim():
                    pace.reset()
                    continue
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

    def stop(self) -> None:
        """Claim nothing any more."""
        self._stopping = True
        self._hint.set()

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
        room = self._options.limit - len(self._held)
        if room <= 0:
            return False
        try:
            queues = await self._rules.queues()
            waiting = [queue.rules.model_profile for queue in queues if queue.pending and not queue.rules.paused]
            profiles = [profile for profile in waiting if self._profiles.runs(profile)]
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
        if self._stopping:
            await self._give_back(taken)
            return False
        for job in taken:
            held = HeldJob(job, self._handlers[job.task_type])
            task = asyncio.create_task(self._run(held), name=f"job {job.id}")
            self._held[task] = held
            task.add_done_callback(self._let_go)
        return bool(taken)

    async def _give_back(self, taken: Sequence[Job]) -> None:
        """The worker was stopped while it claimed these."""
        for job in taken:
            with contextlib.suppress(IngleError):
                await self._jobs.settle(Settlement(job.id, Release(reason=_TOLD_TO_STOP), job.lease_token))

    def _let_go(self, task: "asyncio.Task[None]") -> None:
        del self._held[task]
        self._hint.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a job could not be reported", exc_info=error)

    # -- running --------------------------------------------------------------------------------------

    async def _run(self, held: HeldJob) -> None:
        await held.end()
        report = held.report(self._digest)
        if report is not None:
            held.settling = True
            await self._settle(held, report)

    async def _settle(self, held: HeldJob, report: Complete | Fail | Release) -> None:
        """Write the report, however long the database is away; whoever has lost the job leaves it."""
        job = held.job
        settlement = Settlement(job.id, report, held.token, job.attempt)
        for pause in ReportPauses():
            try:
                settled = await self._jobs.settle(settlement)
            except IngleError as error:
                if not error.retryable or self._hopeless(held):
                    _log.warning("the report of job %s was not taken: %s (%s)", job.id, error, error.code)
                    return
                await asyncio.sleep(pause)
                continue
            _log.info("job %s (%s) is %s", job.id, job.task_type, settled.job.status)
            return

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
