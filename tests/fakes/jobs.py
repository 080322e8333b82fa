"""Jobs kept in memory, with the contract of `JobRepository`; what else is asked of them is in job_ledger.py."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from domain.errors import DedupeConflict, IdempotencyMismatch, IngleError, JobNotFound
from domain.job import EventKind, Job, JobStatus
from domain.job_fence import after_missed_guard, holds, lease_lost, may_write
from domain.job_limits import BREAKER_FAILURES, BREAKER_HOLD_MS
from domain.job_moves import (
    COMPLETED,
    EXPIRED,
    after_failure,
    after_lease,
    after_release,
    on_cancel,
    on_delete,
    on_retry,
)
from domain.job_repository import (
    Added,
    Cancel,
    Changed,
    Chore,
    Claim,
    Complete,
    Delete,
    Expire,
    Extension,
    Fail,
    Heartbeat,
    JobFilter,
    Page,
    Placed,
    Promote,
    Reap,
    Release,
    Retry,
    Settled,
    Settlement,
)
from domain.new_job import NewBatch, NewJob
from domain.placing import arranged, check_priority, check_quota, made
from domain.retry import RetryPolicy
from tests.fakes.job_ledger import JobLedger


class InMemoryJobRepository(JobLedger):
    """A JobRepository; each call is one step of the event loop."""

    async def add(self, jobs: Sequence[NewJob], batch: NewBatch | None = None) -> Added:
        """Put jobs in line, all or none."""
        if batch and batch.idempotency_key and (old := self._batches.get((batch.owner_service, batch.idempotency_key))):
            if old[0] != batch.request_sha256:
                raise IdempotencyMismatch
            return replace(old[1], replayed=True)
        owner, now = jobs[0].owner_service, self.now()
        mine = [job for job in self.jobs.values() if job.owner_service == owner]
        by_key = {job.idempotency_key: job for job in mine if job.idempotency_key}
        active = {job.dedupe_key: job for job in mine if job.dedupe_key and not job.status.terminal}
        plan = arranged(jobs, by_key, active, indexed=batch is not None)
        rules = await self.owner(owner)
        for index, new in enumerate(jobs):
            check_priority(rules, new, index if batch else None)
        fresh = [entry for entry in plan if isinstance(entry, NewJob)]
        size = sum(len(str(new.input)) for new in fresh)
        day = (owner, now // 86_400_000)
        used_bytes, used_tokens = self._used.get(day, (0, 0))
        pending = sum(job.status is JobStatus.PENDING for job in mine) + len(fresh)
        if fresh:
            check_quota(rules, pending=pending, input_bytes=used_bytes + size, tokens=used_tokens, now=now)
        timeouts = {profile: queue.timeout_ms for profile, queue in self._rules.items()}
        for new in fresh:
            made(new, now, 0.0, timeouts.get(new.model_profile), batch)  # refuses before anything is kept
        placed: list[Placed] = []
        for entry in plan:
            if isinstance(entry, int):
                placed.append(replace(placed[entry], created=False))
            elif isinstance(entry, Placed):
                placed.append(entry)
            else:
                tag = self.tag(owner, entry.model_profile, entry.cost)
                job = made(entry, now, tag, timeouts.get(entry.model_profile), batch, next(self._seq))
                self.jobs[job.id] = job
                self.note(None, job, EventKind.CREATED, owner)
                placed.append(Placed(job.id, job.status, created=True, job=job))
        self._used[day] = (used_bytes + size, used_tokens)
        added = Added(placed, batch.id if batch else None, not fresh and batch is None and jobs[0].id != placed[0].id)
        if batch and batch.idempotency_key:
            kept = replace(added, placed=[replace(one, job=None) for one in placed])
            self._batches[batch.owner_service, batch.idempotency_key] = (batch.request_sha256 or "", kept)
        self.bell.ring({new.model_profile for new in fresh})
        return added

    async def search(
        self, wanted: JobFilter, limit: int, before: int | None = None, *, payloads: Collection[str] = ()
    ) -> Page:
        """The newest that match."""
        matching = [
            job
            for job in sorted(self.jobs.values(), key=lambda job: -job.seq)
            if (before is None or job.seq < before) and _matches(job, wanted)
        ]
        page = [_without(job, {"input", "result"} - set(payloads)) for job in matching[:limit]]
        return Page(page, page[-1].seq if len(matching) > limit else None)

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """The best that are ready."""
        await self.sweep(Promote())
        now, held = self.now(), (await self.held()).profiles
        ready = [
            job
            for job in sorted(self.jobs.values(), key=lambda job: (-job.priority, job.fair_tag, job.seq))
            if job.status is JobStatus.PENDING
            and job.ready
            and job.model_profile not in held
            and (job.expires_at is None or job.expires_at > now)
            and (not claim.task_types or job.task_type in claim.task_types)
            and (not claim.model_profiles or job.model_profile in claim.model_profiles)
            and claim.job_id in (None, job.id)
        ]
        ready.sort(key=lambda job: job.model_profile not in claim.loaded)
        taken: list[Job] = []
        for job in ready:
            if len(taken) == claim.limit:
                break
            if not self._has_room(job):
                continue
            rules = self._rules.get(job.model_profile)
            lease = claim.lease_ms or (rules.lease_ms if rules else None) or self._lease_ms
            claimed = replace(
                job,
                status=JobStatus.RUNNING,
                attempt=job.attempt + 1,
                locked_by=claim.worker_id,
                lease_ms=lease,
                lease_token=f"{random.getrandbits(128):032x}",
                lease_expires_at=now + min(lease, job.timeout_ms),
                heartbeat_at=now,
                attempt_started_at=now,
                started_at=job.started_at or now,
            )
            self.note(job, claimed, EventKind.CLAIMED, claim.worker_id)
            taken.append(claimed)
        return taken

    def _has_room(self, job: Job) -> bool:
        running = [other for other in self.jobs.values() if other.status is JobStatus.RUNNING]
        queue, owner = self._rules.get(job.model_profile), self._owners.get(job.owner_service)
        most = queue.max_running if queue else None
        if self._breakers.get(job.model_profile, (0, 0))[0] >= BREAKER_FAILURES:
            most = 1 if most is None else min(1, most)
        if most is not None and sum(other.model_profile == job.model_profile for other in running) >= most:
            return False
        mine = sum(other.owner_service == job.owner_service for other in running)
        return owner is None or owner.max_running is None or mine < owner.max_running

    async def extend(self, beats: Sequence[Heartbeat]) -> Sequence[Extension | IngleError]:
        """Prolong leases."""
        return [self._extended(beat) for beat in beats]

    def _extended(self, beat: Heartbeat) -> Extension | IngleError:
        job = self.jobs.get(beat.job_id)
        if job is None:
            return JobNotFound()
        if job.lease_token != beat.lease_token or beat.attempt not in (None, job.attempt):
            return lease_lost(job, beat.attempt)
        now, deadline = self.now(), job.deadline_at or 0
        expires = min(now + (job.lease_ms or 0), deadline)
        progress = beat.progress if beat.progress is not None else job.progress
        self.jobs[job.id] = replace(job, heartbeat_at=now, lease_expires_at=expires, progress=progress)
        late = deadline <= now
        asked = job.cancel_requested_at is not None
        reason = "timeout" if late else job.cancel_reason
        return Extension(job.id, job.attempt, expires, deadline, asked or late, reason)

    async def settle(self, settlement: Settlement) -> Settled:
        """Write the end of an attempt."""
        job = self.jobs.get(settlement.job_id)
        if job is None or not may_write(settlement) or not holds(job, settlement):
            return after_missed_guard(job, settlement)
        report = settlement.report
        match report:
            case Complete():
                move = COMPLETED
            case Fail():
                earlier = [attempt.error_code or "" for attempt in self.ended.get(job.id, [])]
                move = after_failure(
                    job,
                    self._policy(job),
                    report.code,
                    report.message,
                    jitter=random.uniform(0.5, 1),
                    retry_after_ms=report.retry_after_ms,
                    retryable=report.retryable,
                    earlier_codes=earlier,
                )
            case Release():
                move = after_release(job, report.delay_ms, report.reason)
        after = self.moved(job, move, job.locked_by or "", report=report)
        failures, _ = self._breakers.get(job.model_profile, (0, 0))
        other = isinstance(report, Fail) and report.code != "provider_unavailable" and failures < BREAKER_FAILURES
        if isinstance(report, Complete) or (other and after.status is not JobStatus.CANCELLED):
            self._breakers.pop(job.model_profile, None)
        elif isinstance(report, Fail) and report.code == "provider_unavailable":
            held = self.now() + BREAKER_HOLD_MS if failures + 1 >= BREAKER_FAILURES else 0
            self._breakers[job.model_profile] = (failures + 1, held)
        return Settled(after)

    def _policy(self, job: Job) -> RetryPolicy:
        queue = self._rules.get(job.model_profile)
        return RetryPolicy.of(job.retry, queue.retry if queue else None)

    async def change(
        self, action: Cancel | Retry | Delete, job_ids: Sequence[str], owners: Collection[str] | None = None
    ) -> Sequence[Changed | IngleError]:
        """Do that to each."""
        answers: list[Changed | IngleError] = []
        for job_id in job_ids:
            try:
                answers.append(self._changed(await self.get(job_id, owners), action))
            except IngleError as error:
                answers.append(error)
        return answers

    def _changed(self, job: Job, action: Cancel | Retry | Delete) -> Changed:
        match action:
            case Delete():
                on_delete(job)
                self.note(job, None, EventKind.DELETED, action.actor)
                return Changed(job, changed=True)
            case Cancel():
                move = on_cancel(job, action.reason)
            case Retry():
                move = on_retry(job, self.now(), action.delay_ms, force=action.force)
                for other in self.jobs.values() if move and job.dedupe_key else ():
                    same = (other.owner_service, other.dedupe_key) == (job.owner_service, job.dedupe_key)
                    if same and other.id != job.id and not other.status.terminal:
                        raise DedupeConflict(active_id=other.id)
        if move is None:
            return Changed(job, changed=False)
        after = self.moved(job, move, action.actor)
        if isinstance(action, Retry) and action.max_attempts:
            after = self.jobs[job.id] = replace(after, max_attempts=action.max_attempts)
        return Changed(after, changed=True)

    async def sweep(self, chore: Chore) -> int:
        """Do a chore."""
        now, done = self.now(), 0
        for job in list(self.jobs.values()):
            pending = job.status is JobStatus.PENDING
            match chore:
                case Promote() if pending and not job.ready and job.available_at <= now:
                    self.jobs[job.id] = replace(job, ready=True)
                    self.bell.ring([job.model_profile])
                case Expire() if pending and job.expires_at is not None and job.expires_at <= now:
                    self.moved(job, EXPIRED, "sweeper")
                case Reap() if job.lease_expires_at is not None and (
                    job.lease_expires_at < now or job.locked_by in chore.dead_workers
                ):
                    move = after_lease(job, now, self._policy(job), jitter=random.uniform(0.5, 1))
                    self.moved(job, move, "sweeper")
                case _ if job.finished_at is not None and not isinstance(chore, Promote | Expire | Reap):
                    keep = getattr(chore, f"{job.status}_ms")
                    if job.finished_at > now - keep:
                        continue
                    self.note(job, None, EventKind.DELETED, "pruner")
                case _:
                    continue
            done += 1
        return done


def _matches(job: Job, wanted: JobFilter) -> bool:
    fields: Mapping[str, Collection[object]] = {
        "owner_service": wanted.owner_service,
        "owner_ref": wanted.owner_ref,
        "task_type": wanted.task_type,
        "model_profile": wanted.model_profile,
        "status": wanted.status,
        "error_code": wanted.error_code,
        "batch_id": wanted.batch_id,
        "idempotency_key": wanted.idempotency_key,
    }
    return (
        (wanted.owners is None or job.owner_service in wanted.owners)
        and all(not values or getattr(job, name) in values for name, values in fields.items())
        and (wanted.created_after is None or job.created_at > wanted.created_after)
        and (wanted.created_before is None or job.created_at < wanted.created_before)
    )


def _without(job: Job, payloads: set[str]) -> Job:
    return replace(job, **{name: {} if name == "input" else None for name in payloads})  # type: ignore[arg-type]
