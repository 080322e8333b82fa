"""Who may write to a running job, and what is said to who may not.

Authority is the pair (attempt, lease token) of the row. A writer whose guard matched no row reads the row and is told,
by `after_missed_guard`, whether its report was written before, or why it cannot be.
"""

from domain.errors import AlreadyCompleted, InvalidTransition, JobNotFound, LeaseLost, LeaseRequired
from domain.job import Job, JobStatus
from domain.job_moves import summary
from domain.job_repository import Complete, Fail, Release, Settled, Settlement

VERBS: dict[type[Complete | Fail | Release], str] = {Complete: "completed", Fail: "failed", Release: "released"}


def may_write(settlement: Settlement) -> bool:
    """Whether a report may be written at all, if its guard holds: a token is there, or not needed."""
    if settlement.lease_token is not None:
        return True
    return not settlement.require_token and not isinstance(settlement.report, Release)


def holds(job: Job, settlement: Settlement) -> bool:
    """The guard: whether this writer is the holder of `job`."""
    if job.status is not JobStatus.RUNNING or settlement.attempt not in (None, job.attempt):
        return False
    return job.attempt == 1 if settlement.lease_token is None else job.lease_token == settlement.lease_token


def after_missed_guard(job: Job | None, settlement: Settlement) -> Settled:
    """The answer to a report whose guard matched nothing.

    Raises JobNotFound, LeaseRequired, AlreadyCompleted, InvalidTransition, LeaseLost.
    """
    if job is None:
        raise JobNotFound
    if settlement.lease_token is None:
        return _without_token(job, settlement)
    report = settlement.report
    if settlement.lease_token != job.finished_token:
        raise lease_lost(job, settlement.attempt)
    if job.finished_as != VERBS[type(report)]:
        raise InvalidTransition(f"this attempt was reported as {job.finished_as}", job=summary(job))
    if isinstance(report, Complete) and job.result_sha256 != report.result_sha256:
        raise AlreadyCompleted(job=summary(job))
    return Settled(job, replayed=True)


def _without_token(job: Job, settlement: Settlement) -> Settled:
    report = settlement.report
    running_again = job.status is JobStatus.RUNNING and job.attempt > 1
    if not may_write(settlement) or running_again:
        raise LeaseRequired(job=summary(job))
    if job.status is JobStatus.COMPLETED:
        if not isinstance(report, Complete):
            raise InvalidTransition("the job is completed", job=summary(job))
        if job.attempt == 1 and job.result_sha256 == report.result_sha256:
            return Settled(job, replayed=True)
        raise AlreadyCompleted(job=summary(job))
    raise lease_lost(job, settlement.attempt)


def lease_lost(job: Job, attempt: int | None) -> LeaseLost:
    """The error for somebody who no longer holds `job`."""
    who = "this token" if attempt is None else f"attempt {attempt}"
    return LeaseLost(f"{who} no longer holds this job", job=summary(job))
