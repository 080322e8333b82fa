"""Jobs, and what belongs to them, as JSON."""

from collections.abc import Collection, Sequence
from typing import Any

from api.times import rfc3339
from application.job_ports import Holds
from domain.job import Attempt, Job, JobEvent, JobStatus


def moment(milliseconds: int | None) -> str | None:
    """Milliseconds since the epoch as text."""
    return None if milliseconds is None else rfc3339(milliseconds / 1000)


def job_record(job: Job, holds: Holds, *, payloads: Collection[str] = ("input", "result")) -> dict[str, Any]:
    """A job at the time of `holds`."""
    phase = job.phase(holds.at, held=job.model_profile in holds.profiles)
    waits_again = job.status is JobStatus.PENDING and not job.ready and job.attempt > 0
    record = {
        "id": job.id,
        "owner_service": job.owner_service,
        "owner_ref": job.owner_ref,
        "task_type": job.task_type,
        "model_profile": job.model_profile,
        "status": job.status.value,
        "phase": phase.value if phase else None,
        "priority": job.priority,
        "attempt": job.attempt,
        "failure_count": job.failure_count,
        "snooze_count": job.snooze_count,
        "max_attempts": job.max_attempts,
        "timeout_seconds": job.timeout_ms // 1000,
        "input": job.input,
        "result": job.result,
        "usage": job.usage,
        "error_code": job.error_code,
        "error_message": job.error_message,
        "progress": job.progress,
        "worker_id": job.locked_by,
        "lease_expires_at": moment(job.lease_expires_at),
        "available_at": moment(job.available_at),
        "next_attempt_at": moment(job.available_at) if waits_again else None,
        "cancel_requested_at": moment(job.cancel_requested_at),
        "batch_id": job.batch_id,
        "idempotency_key": job.idempotency_key,
        "dedupe_key": job.dedupe_key,
        "metadata": job.metadata or {},
        "callback_url": job.callback_url,
        "include_result": job.include_result,
        "payload_purged": job.payload_purged_at is not None,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "expires_at": moment(job.expires_at),
    }
    for name in {"input", "result"} - set(payloads):
        del record[name]
    return record


def claimed_record(job: Job) -> dict[str, Any]:
    """A job for the worker that has just claimed it: nobody else is told the token."""
    record = job_record(job, Holds(job.attempt_started_at or 0))
    return {**record, "lease_token": job.lease_token, "deadline_at": moment(job.deadline_at)}


def attempt_records(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Ended attempts, in order."""
    return [
        {
            "attempt": one.attempt,
            "worker_id": one.worker_id,
            "started_at": moment(one.started_at),
            "ended_at": moment(one.ended_at),
            "outcome": one.outcome.value,
            "error_code": one.error_code,
            "error_message": one.error_message,
            "usage": one.usage,
        }
        for one in attempts
    ]


def event_record(event: JobEvent) -> dict[str, Any]:
    """One thing that happened."""
    return {
        "seq": event.seq,
        "at": moment(event.at),
        "kind": event.kind.value,
        "actor": event.actor,
        "from_status": event.from_status.value if event.from_status else None,
        "to_status": event.to_status.value if event.to_status else None,
        "attempt": event.attempt,
        "error_code": event.error_code,
        "note": event.note,
    }
