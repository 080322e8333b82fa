"""A job: a row of durable work, and what is remembered of it.

Times are milliseconds since the epoch, UTC, as the database tells them; spans are milliseconds too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from domain.retry import RetryRules


class JobStatus(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether no worker will touch it any more."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class Phase(StrEnum):
    """What a pending or running job waits for; derived, never stored."""

    HELD = "held"
    READY = "ready"
    RETRY_WAIT = "retry_wait"
    SCHEDULED = "scheduled"
    CANCELLING = "cancelling"
    LEASE_EXPIRED = "lease_expired"
    LEASED = "leased"


class EventKind(StrEnum):
    """What happened to a job."""

    CREATED = "created"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    RETRY_SCHEDULED = "retry_scheduled"
    FAILED = "failed"
    SNOOZED = "snoozed"
    RELEASED = "released"
    REAPED = "reaped"
    CANCELLED = "cancelled"
    CANCEL_REQUESTED = "cancel_requested"
    RETRIED = "retried"
    EXPIRED = "expired"
    DELETED = "deleted"


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    SNOOZED = "snoozed"
    RELEASED = "released"
    LOST = "lost"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is kept. `attempt` grows with every claim and never goes back; `failure_count` is the budget spent.

    `lease_token` is there while somebody holds the job and for nobody else to see. `seq` orders jobs by creation.
    """

    seq: int
    id: str
    owner_service: str
    task_type: str
    model_profile: str
    status: JobStatus
    available_at: int
    fair_tag: float
    max_attempts: int
    timeout_ms: int
    created_at: int
    owner_ref: str = ""
    priority: int = 0
    ready: bool = True
    expires_at: int | None = None
    cost: float = 1.0
    input: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    result: Any = None
    result_sha256: str | None = None
    usage: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    attempt: int = 0
    failure_count: int = 0
    snooze_count: int = 0
    retry: RetryRules | None = None
    lease_ms: int | None = None
    lease_token: str | None = None
    lease_expires_at: int | None = None
    locked_by: str | None = None
    heartbeat_at: int | None = None
    attempt_started_at: int | None = None
    finished_token: str | None = None
    finished_as: str | None = None
    progress: Mapping[str, Any] | None = None
    cancel_requested_at: int | None = None
    cancel_reason: str | None = None
    callback_url: str | None = None
    callback_headers: Mapping[str, str] | None = None
    include_result: bool = False
    idempotency_key: str | None = None
    request_sha256: str | None = None
    dedupe_key: str | None = None
    batch_id: str | None = None
    trace_id: str | None = None
    request_id: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    payload_purged_at: int | None = None

    @property
    def deadline_at(self) -> int | None:
        """When the running attempt must have ended, however often its worker beats."""
        return None if self.attempt_started_at is None else self.attempt_started_at + self.timeout_ms

    @property
    def served(self) -> bool:
        """Whether it was claimed from the place in line that it has: a manual retry gives it a new one."""
        active = self.status in (JobStatus.RUNNING, JobStatus.COMPLETED)
        return self.attempt > 0 and (active or self.failure_count > 0 or self.snooze_count > 0)

    def phase(self, now: int, *, held: bool = False) -> Phase | None:
        """What it waits for at `now`; `held` tells that its queue is paused or its breaker open."""
        if self.status is JobStatus.PENDING:
            if not self.ready:
                return Phase.RETRY_WAIT if self.attempt else Phase.SCHEDULED
            return Phase.HELD if held else Phase.READY
        if self.status is JobStatus.RUNNING:
            if self.cancel_requested_at is not None:
                return Phase.CANCELLING
            return Phase.LEASE_EXPIRED if (self.lease_expires_at or 0) < now else Phase.LEASED
        return None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a worker held a job."""

    attempt: int
    worker_id: str
    started_at: int
    ended_at: int
    outcome: Outcome
    error_code: str | None = None
    error_message: str | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job; `seq` grows in the order of writing."""

    seq: int
    at: int
    kind: EventKind
    actor: str
    from_status: JobStatus | None
    to_status: JobStatus | None
    attempt: int
    error_code: str | None = None
    note: str | None = None
