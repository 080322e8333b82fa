"""What is written beside a transition, in its transaction: its event, the attempt that it ended, the delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, insert

from domain.job import EventKind, Job, JobStatus, Outcome
from infrastructure.persistence.rows import as_json
from infrastructure.persistence.tables import job_attempts, job_events, webhook_deliveries


@dataclass(frozen=True, slots=True)
class Happened:
    """A transition that was written: `job` after it, `since` from which status, and the attempt that it ended."""

    job: Job
    kind: EventKind
    actor: str
    since: JobStatus | None
    at: int
    to: JobStatus | None
    code: str | None = None
    note: str | None = None
    outcome: Outcome | None = None
    usage: Mapping[str, Any] | None = None
    deliver: bool = False


def record(connection: Connection, happened: Sequence[Happened]) -> None:
    """Append events, ended attempts and deliveries of `happened`."""
    if not happened:
        return
    connection.execute(insert(job_events), [_event(one) for one in happened])
    if attempts := [_attempt(one) for one in happened if one.outcome is not None]:
        connection.execute(insert(job_attempts), attempts)
    if deliveries := [_delivery(one) for one in happened if one.deliver and one.job.callback_url]:
        connection.execute(insert(webhook_deliveries), deliveries)


def _event(one: Happened) -> dict[str, Any]:
    job = one.job
    ended = one.outcome is not None and job.attempt_started_at is not None
    waited = one.at - job.available_at if one.kind is EventKind.CLAIMED else None
    ran = one.at - (job.attempt_started_at or 0) if ended else waited
    over = one.to is not None and one.to.terminal
    tokens_in, tokens_out = tokens_of(one.usage)
    return {
        "job_seq": job.seq,
        "at": one.at,
        "kind": str(one.kind),
        "actor": one.actor,
        "from_status": None if one.since is None else str(one.since),
        "to_status": None if one.to is None else str(one.to),
        "attempt": job.attempt,
        "error_code": one.code,
        "note": one.note,
        # A clock that was set back must not give a negative time.
        "ms": None if ran is None else max(0, ran),
        "total_ms": max(0, one.at - job.created_at) if over else None,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "owner_service": job.owner_service,
        "model_profile": job.model_profile,
        "task_type": job.task_type,
    }


def _attempt(one: Happened) -> dict[str, Any]:
    job = one.job
    return {
        "job_seq": job.seq,
        "attempt": job.attempt,
        "worker_id": job.locked_by or "",
        "started_at": job.attempt_started_at or one.at,
        "ended_at": one.at,
        "outcome": str(one.outcome),
        "error_code": one.code,
        "error_message": one.note,
        "usage": as_json(one.usage),
    }


def _delivery(one: Happened) -> dict[str, Any]:
    job = one.job
    return {
        "id": str(uuid4()),
        "job_seq": job.seq,
        "job_id": job.id,
        "owner_service": job.owner_service,
        "event": f"job.{one.to}",
        "attempt": job.attempt,
        "status_then": str(one.to),
        "error_code": one.code,
        "endpoint": job.callback_url,
        "headers": as_json(job.callback_headers),
        "next_at": one.at,
        "created_at": one.at,
    }


def tokens_of(usage: Mapping[str, Any] | None) -> tuple[int | None, int | None]:
    """Tokens read and written, as far as `usage` tells them as whole numbers."""
    values = [(usage or {}).get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (v if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 53 else None for v in values)
    return read, written
