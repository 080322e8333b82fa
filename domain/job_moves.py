"""Which state of a job may follow which, and who may bring it about.

Every decision is a pure function from a job, and what somebody wants of it, to a `Move`; whoever keeps jobs writes the
move under a guard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from domain.errors import InvalidTransition, JobCompleted
from domain.job import EventKind, Job, JobStatus, Outcome
from domain.retry import RetryPolicy

MAX_SNOOZES = 100
MESSAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Move:
    """A transition as it was decided, before it is written.

    To pending: `delay_ms` from the database's now, `ready` unless somebody has to promote it first. `counted` and
    `snoozed` are added to the budget and to the snoozes; `afresh` sets both to 0, clears error, cancel request,
    result and expiry, and takes a new place in the line.
    """

    to: JobStatus
    kind: EventKind
    outcome: Outcome | None = None
    code: str | None = None
    message: str | None = None
    delay_ms: int = 0
    ready: bool = True
    counted: int = 0
    snoozed: int = 0
    afresh: bool = False


COMPLETED = Move(JobStatus.COMPLETED, EventKind.COMPLETED, Outcome.COMPLETED)
EXPIRED = Move(JobStatus.FAILED, EventKind.EXPIRED, code="expired")


def after_failure(
    job: Job,
    policy: RetryPolicy,
    code: str,
    message: str | None,
    *,
    jitter: float,
    retry_after_ms: int = 0,
    retryable: bool | None = None,
    earlier_codes: Sequence[str] = (),
) -> Move:
    """What follows when the holder of `job` says that it failed with `code`.

    `jitter` is in [0.5, 1]; `earlier_codes` are the codes of the job's ended attempts. A requested cancel wins.
    """
    message = cut(message)
    if job.cancel_requested_at is not None:
        return Move(JobStatus.CANCELLED, EventKind.CANCELLED, Outcome.CANCELLED, code, message)
    verdict = policy.verdict(code, retryable=retryable, earlier_codes=earlier_codes)
    if verdict.snooze:
        if job.snooze_count < MAX_SNOOZES:
            delay = verdict.delay_ms(job.snooze_count + 1, jitter, retry_after_ms)
            return Move(
                JobStatus.PENDING, EventKind.SNOOZED, Outcome.SNOOZED, code, message, delay, ready=False, snoozed=1
            )
        return Move(JobStatus.FAILED, EventKind.FAILED, Outcome.FAILED, code, message)
    failures = job.failure_count + 1
    if verdict.terminal or failures >= job.max_attempts:
        return Move(JobStatus.FAILED, EventKind.FAILED, Outcome.FAILED, code, message, counted=1)
    delay = verdict.delay_ms(failures, jitter, retry_after_ms)
    kind = EventKind.RETRY_SCHEDULED
    return Move(JobStatus.PENDING, kind, Outcome.FAILED, code, message, delay, ready=False, counted=1)


def after_release(job: Job, delay_ms: int, reason: str | None) -> Move:
    """What follows when the holder of `job` gives it back unfinished."""
    reason = cut(reason)
    if job.cancel_requested_at is not None:
        return Move(JobStatus.CANCELLED, EventKind.CANCELLED, Outcome.CANCELLED, message=reason)
    if job.snooze_count >= MAX_SNOOZES:
        return Move(JobStatus.FAILED, EventKind.FAILED, Outcome.RELEASED, "released", reason)
    return Move(
        JobStatus.PENDING, EventKind.RELEASED, Outcome.RELEASED, None, reason, delay_ms, ready=delay_ms == 0, snoozed=1
    )


def after_lease(job: Job, now: int, policy: RetryPolicy, *, jitter: float) -> Move:
    """What follows when the lease of a running `job` ran out, or its holder is known to be dead."""
    deadline = job.deadline_at
    late = deadline is not None and deadline <= now
    code, outcome = ("timeout", Outcome.TIMEOUT) if late else ("stale_worker", Outcome.LOST)
    if job.cancel_requested_at is not None:
        return Move(JobStatus.CANCELLED, EventKind.CANCELLED, Outcome.CANCELLED, code)
    failures = job.failure_count + 1
    verdict = policy.verdict(code)
    if verdict.terminal or failures >= job.max_attempts:
        return Move(JobStatus.FAILED, EventKind.REAPED, outcome, code, counted=1)
    if late:
        delay = verdict.delay_ms(failures, jitter)
        return Move(JobStatus.PENDING, EventKind.REAPED, outcome, code, delay_ms=delay, ready=False, counted=1)
    # The lease was the wait.
    return Move(JobStatus.PENDING, EventKind.REAPED, outcome, code, counted=1)


def on_cancel(job: Job, reason: str | None) -> Move | None:
    """What follows when the owner wants `job` gone; None where that was so before.

    A running job stays running until its worker learns of it. Raises JobCompleted, InvalidTransition (failed).
    """
    match job.status:
        case JobStatus.COMPLETED:
            raise JobCompleted("a completed job cannot be cancelled", job=summary(job))
        case JobStatus.FAILED:
            raise InvalidTransition("a failed job cannot be cancelled", job=summary(job))
        case JobStatus.CANCELLED:
            return None
        case JobStatus.PENDING:
            return Move(JobStatus.CANCELLED, EventKind.CANCELLED, message=reason)
        case JobStatus.RUNNING if job.cancel_requested_at is None:
            return Move(JobStatus.RUNNING, EventKind.CANCEL_REQUESTED, message=reason)
    return None


def on_retry(job: Job, now: int, delay_ms: int, *, force: bool) -> Move | None:
    """What follows when somebody wants `job` to run again from the start; None where it has yet to run.

    `force` takes a running job from its worker; an expired lease needs none. Raises JobCompleted, InvalidTransition.
    """
    if job.status is JobStatus.COMPLETED:
        raise JobCompleted("a completed job is final", job=summary(job))
    if job.status is JobStatus.PENDING:
        return None
    if job.payload_purged_at is not None:
        raise InvalidTransition("the job's input is not kept any more: submit it anew", job=summary(job))
    running = job.status is JobStatus.RUNNING
    if running and not force and (job.lease_expires_at or 0) >= now:
        raise InvalidTransition("the job is running: retry it with force to take it from its worker", job=summary(job))
    outcome = Outcome.SUPERSEDED if running else None
    return Move(JobStatus.PENDING, EventKind.RETRIED, outcome, delay_ms=delay_ms, ready=delay_ms == 0, afresh=True)


def on_delete(job: Job) -> None:
    """Refuse to remove a job that is not over. Raises InvalidTransition."""
    if not job.status.terminal:
        raise InvalidTransition(f"the job is {job.status}: cancel it first", job=summary(job))


def summary(job: Job) -> dict[str, object]:
    """What an error says of the job that it is about."""
    return {"id": job.id, "status": str(job.status), "attempt": job.attempt}


def cut(message: str | None) -> str | None:
    """`message` within MESSAGE_BYTES of UTF-8; what no database can keep (NUL, lone surrogates) is replaced."""
    if message is None:
        return None
    kept = message.replace("\0", "\ufffd").encode(errors="replace")
    return kept[:MESSAGE_BYTES].decode(errors="ignore")
