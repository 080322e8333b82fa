"""Jobs kept in memory with all that happened to them and all that was set for them, and wake-ups in process."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from application.job_ports import Holds, OnHint
from domain.errors import JobNotFound
from domain.fairness import first_tag, step_of
from domain.job import Attempt, EventKind, Job, JobEvent, JobStatus
from domain.job_fence import VERBS
from domain.job_limits import OwnerRules, QueueRules, QueueState
from domain.job_moves import (
    Move,
)
from domain.job_repository import (
    Added,
    Complete,
    Fail,
    Release,
)
from tests.fakes.clock import EPOCH


class Bell:
    """A WakeUp within the process."""

    def __init__(self) -> None:
        self._listeners: list[OnHint] = []

    def listen(self, on_hint: OnHint) -> Callable[[], None]:
        """Call `on_hint` for each ring, until what is returned is called."""
        self._listeners.append(on_hint)
        return lambda: self._listeners.remove(on_hint)

    def ring(self, profiles: Collection[str]) -> None:
        """Tell every listener, now."""
        for on_hint in list(self._listeners):
            on_hint(profiles)


class JobLedger:
    """Jobs in a dictionary: `JobHistory` and `JobRules`, and how a job is changed. `now` gives milliseconds."""

    def __init__(
        self, now: Callable[[], int] = lambda: int(EPOCH * 1000), *, lease_ms: int = 60_000, bell: Bell | None = None
    ) -> None:
        self.now = now
        self.bell = bell or Bell()
        self.jobs: dict[str, Job] = {}
        self.ended: dict[str, list[Attempt]] = {}
        self.log: dict[str, list[JobEvent]] = {}
        self.calls: list[tuple[str, str]] = []  # (job, event): what an outbox would deliver
        self._batches: dict[tuple[str, str], tuple[str, Added]] = {}
        self._rules: dict[str, QueueRules] = {}
        self._breakers: dict[str, tuple[int, int]] = {}  # profile → failures in a row, held until
        self._owners: dict[str, OwnerRules] = {}
        self._floors: dict[str, float] = {}  # profile → the largest served place that a job has left
        self._used: dict[tuple[str, int], tuple[int, int]] = {}  # (owner, day) → bytes, tokens
        self._seq = itertools.count(1)
        self._lease_ms = lease_ms

    async def get(self, job_id: str, owners: Collection[str] | None = None, profiles: Collection[str] = ()) -> Job:
        """That job."""
        job = self.jobs.get(job_id)
        if job is None or (
            owners is not None and job.owner_service not in owners and job.model_profile not in profiles
        ):
            raise JobNotFound
        return job

    def tag(self, owner: str, profile: str, cost: float) -> float:
        """The place in line of the owner's next job."""
        line = [job for job in self.jobs.values() if job.model_profile == profile]
        served = max((job.fair_tag for job in line if job.served), default=None)
        own = max((job.fair_tag for job in line if job.owner_service == owner), default=None)
        weight = self._owners[owner].weight if owner in self._owners else 1.0
        return first_tag(served, self._floors.get(profile), own, step_of(cost, weight))

    # -- JobHistory -----------------------------------------------------------------------------------

    async def attempts(self, job_id: str, owners: Collection[str] | None = None) -> Sequence[Attempt]:
        """Its ended attempts."""
        await self.get(job_id, owners)
        return list(self.ended.get(job_id, []))

    async def events(self, job_id: str, after: int = 0, owners: Collection[str] | None = None) -> Sequence[JobEvent]:
        """Its events."""
        await self.get(job_id, owners)
        return [event for event in self.log[job_id] if event.seq > after]

    # -- JobRules -------------------------------------------------------------------------------------

    async def queues(self) -> Sequence[QueueState]:
        """All that are listed."""
        profiles = {*self._rules, *(job.model_profile for job in self.jobs.values() if not job.status.terminal)}
        return [await self.queue(profile) for profile in sorted(profiles | self._breakers.keys())]

    async def waiting(self) -> Collection[str]:
        """Those that have a job that is due, and are not held."""
        now, held = self.now(), (await self.held()).profiles
        due = [job for job in self.jobs.values() if job.status is JobStatus.PENDING and job.available_at <= now]
        return {job.model_profile for job in due}.difference(held)

    async def queue(self, model_profile: str) -> QueueState:
        """That queue."""
        until = self._breakers.get(model_profile, (0, 0))[1]
        until = until if until > self.now() else 0
        line = [job.status for job in self.jobs.values() if job.model_profile == model_profile]
        return QueueState(
            self._rules.get(model_profile, QueueRules(model_profile)),
            until or None,
            "provider_unavailable" if until else None,
            line.count(JobStatus.PENDING),
            line.count(JobStatus.RUNNING),
        )

    async def set_queue(self, rules: QueueRules) -> None:
        """Replace them."""
        self._rules[rules.model_profile] = rules

    async def owners(self) -> Sequence[OwnerRules]:
        """All that are listed."""
        return [self._owners[name] for name in sorted(self._owners)]

    async def owner(self, owner_service: str) -> OwnerRules:
        """That owner."""
        return self._owners.get(owner_service, OwnerRules(owner_service))

    async def set_owner(self, rules: OwnerRules) -> None:
        """Replace them."""
        self._owners[rules.owner_service] = rules

    async def held(self) -> Holds:
        """Paused, or held by a breaker."""
        now = self.now()
        paused = {profile for profile, rules in self._rules.items() if rules.paused}
        return Holds(now, paused | {profile for profile, (_, until) in self._breakers.items() if until > now})

    # -- one transition -------------------------------------------------------------------------------

    def moved(self, job: Job, move: Move, actor: str, *, report: Complete | Fail | Release | None = None) -> Job:
        """`job` after that move; `report` is what its worker said."""
        now, pending = self.now(), move.to is JobStatus.PENDING
        if move.kind is EventKind.CANCEL_REQUESTED:
            after = replace(job, cancel_requested_at=now, cancel_reason=move.message)
            return self.note(job, after, move.kind, actor, move)
        after = replace(
            job,
            status=move.to,
            ready=move.ready if pending else job.ready,
            available_at=now + move.delay_ms if pending else job.available_at,
            failure_count=job.failure_count + move.counted,
            snooze_count=job.snooze_count + move.snoozed,
            error_code=move.code,
            error_message=move.message,
            finished_at=now if move.to.terminal else None,
            lease_token=None,
            lease_expires_at=None,
        )
        if report is not None:
            after = replace(after, finished_token=job.lease_token, finished_as=VERBS[type(report)])
        if isinstance(report, Complete):
            after = replace(after, result=report.result, result_sha256=report.result_sha256, usage=report.usage)
        if move.afresh:
            if job.served:
                self._floors[job.model_profile] = max(job.fair_tag, self._floors.get(job.model_profile, job.fair_tag))
            tag = self.tag(job.owner_service, job.model_profile, job.cost)
            after = replace(
                after,
                failure_count=0,
                snooze_count=0,
                fair_tag=tag,
                expires_at=None,
                error_code=None,
                error_message=None,
                cancel_requested_at=None,
                cancel_reason=None,
                progress=None,
            )
        if move.outcome is not None:
            usage = report.usage if isinstance(report, Complete) else None
            started = job.attempt_started_at or now
            ended = Attempt(
                job.attempt, job.locked_by or "", started, now, move.outcome, move.code, move.message, usage
            )
            self.ended.setdefault(job.id, []).append(ended)
        if move.to.terminal and job.callback_url:
            self.calls.append((job.id, f"job.{move.to}"))
        self.note(job, after, move.kind, actor, move)
        if pending and after.ready:
            self.bell.ring([job.model_profile])
        return after

    def note(self, before: Job | None, after: Job | None, kind: EventKind, actor: str, move: Move | None = None) -> Job:
        """Keep `after` (None: the job goes) and append the event."""
        job = after or before
        assert job is not None
        if after is None:
            del self.jobs[job.id]
        else:
            self.jobs[job.id] = after
        event = JobEvent(
            next(self._seq),
            self.now(),
            kind,
            actor,
            before.status if before else None,
            after.status if after else None,
            job.attempt,
            move.code if move else None,
            move.message if move else None,
        )
        self.log.setdefault(job.id, []).append(event)
        return job
