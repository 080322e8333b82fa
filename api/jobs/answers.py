"""What the routes of jobs answer with, as OpenAPI describes it. A test holds real answers against it.

The answers themselves are made in record.py and the pages; nothing is checked twice at run time.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from domain.job import EventKind, JobStatus, Outcome, Phase

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class AttemptAnswer(BaseModel):
    """One time that a worker held a job."""

    attempt: int
    worker_id: str
    started_at: Moment
    ended_at: Moment
    outcome: Outcome
    error_code: str | None
    error_message: str | None
    usage: dict[str, Any] | None


class ListedJob(BaseModel):
    """A job. `input` and `result` are there where the list was asked to include them."""

    id: str
    owner_service: str
    owner_ref: str
    task_type: str
    model_profile: str
    status: JobStatus
    phase: Phase | None
    priority: int
    attempt: int
    failure_count: int
    snooze_count: int
    max_attempts: int
    timeout_seconds: int
    input: dict[str, Any] = Field(default_factory=dict)
    result: Any = None
    usage: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    progress: dict[str, Any] | None
    worker_id: str | None
    lease_expires_at: Moment | None
    available_at: Moment
    next_attempt_at: Moment | None
    cancel_requested_at: Moment | None
    batch_id: str | None
    idempotency_key: str | None
    dedupe_key: str | None
    metadata: dict[str, str]
    callback_url: str | None
    include_result: bool
    payload_purged: bool
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment | None


class JobAnswer(ListedJob):
    """A job."""

    input: dict[str, Any]
    result: Any


class ShownJob(JobAnswer):
    """A job, and with `include=attempts` how often it was tried."""

    attempts: list[AttemptAnswer] = Field(default_factory=list)


class ReportedJob(JobAnswer):
    """A job after a report; `replayed` where this very report was written before."""

    replayed: bool


class ChangedJob(JobAnswer):
    """A job after a change; `changed` is false where it was so already."""

    changed: bool


class ClaimedJob(JobAnswer):
    """A job for the worker that has just claimed it."""

    lease_token: str
    deadline_at: Moment


class ClaimAnswer(BaseModel):
    """Jobs for a worker, best first; none where there is nothing to do."""

    jobs: list[ClaimedJob]


class BeatAnswer(BaseModel):
    """The lease after a heartbeat."""

    id: str
    status: JobStatus
    attempt: int
    lease_expires_at: Moment
    deadline_at: Moment
    cancel_requested: bool
    cancel_reason: str | None


class PlacedJob(BaseModel):
    """Where a job of a batch came to lie; `created` is false where another answers for it."""

    index: int
    id: str
    status: JobStatus
    created: bool


class BatchAnswer(BaseModel):
    """A batch, one entry for each job in order."""

    batch_id: str
    count: int
    jobs: list[PlacedJob]


class ListAnswer(BaseModel):
    """A page of jobs, newest first; `next_cursor` is null after the last."""

    jobs: list[ListedJob]
    next_cursor: str | None


class EventAnswer(BaseModel):
    """One thing that happened to a job."""

    seq: int
    at: Moment
    kind: EventKind
    actor: str
    from_status: JobStatus | None
    to_status: JobStatus | None
    attempt: int
    error_code: str | None
    note: str | None


class EventsAnswer(BaseModel):
    """What happened to a job, in order."""

    events: list[EventAnswer]


class BulkAnswer(BaseModel):
    """What came of changing all jobs that match; `ids` are the first hundred."""

    matched: int
    changed: int
    dry_run: bool
    ids: list[str]


class TaskAnswer(BaseModel):
    """A job as a task."""

    id: str
    status: str
    result: Any
    error: str | None
