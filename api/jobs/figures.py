"""What operators are shown, as OpenAPI describes it. A test holds real answers against it."""

from pydantic import BaseModel

from api.jobs.answers import Moment
from application.job_ports import DeliveryStatus


class JobFigures(BaseModel):
    """Jobs by status."""

    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int


class LineFigures(BaseModel):
    """Jobs that are not over, by what they wait for."""

    ready: int
    scheduled: int
    retry_wait: int
    held: int
    lease_expired: int
    cancelling: int
    oldest_ready_age_seconds: float


class ProfileFigures(BaseModel):
    """Open jobs of a model profile."""

    model_profile: str
    pending: int
    running: int
    paused: bool
    held_until: Moment | None


class OwnerFigures(BaseModel):
    """Open jobs of an owner, and its share of what was completed in the window."""

    owner_service: str
    pending: int
    running: int
    share_served: float


class TypeFigures(BaseModel):
    """Open jobs of a task type."""

    task_type: str
    pending: int
    running: int


class CodeFigures(BaseModel):
    """How often an error code was met."""

    last_1h: int
    last_24h: int
    total: int


class ErrorFigures(BaseModel):
    """Failures, by code, and by what followed."""

    by_code: dict[str, CodeFigures]
    retryable: int
    terminal: int


class ThroughputFigures(BaseModel):
    """Completed jobs a minute over `1m`, `5m` and `1h`."""

    completed_per_minute: dict[str, float]


class Quantiles(BaseModel):
    """Milliseconds; null where nothing was measured."""

    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


class LatencyFigures(BaseModel):
    """How long jobs waited, ran, and took in all."""

    queue_wait: Quantiles
    run: Quantiles
    end_to_end: Quantiles


class AttemptFigures(BaseModel):
    """Attempts of completed jobs, and jobs taken from workers that fell silent."""

    mean: float
    gt1_share: float
    rescued_1h: int


class WorkerAnswer(BaseModel):
    """A worker that lives or lived."""

    worker_id: str
    kind: str
    last_seen_at: Moment
    running: int
    profiles: list[str]
    alive: bool


class DispatchFigures(BaseModel):
    """The broker (ok, down or disabled), and ready jobs that it was not told of."""

    broker: str
    undispatched: int
    oldest_undispatched_age: float


class WebhookFigures(BaseModel):
    """Deliveries to callbacks."""

    queued: int
    failed_24h: int
    oldest_age_seconds: float


class DatabaseFigures(BaseModel):
    """Where jobs are kept, and how far this server's clock is from there."""

    dialect: str
    size_bytes: int
    clock_skew_ms: int


class StatsAnswer(BaseModel):
    """Jobs in figures."""

    generated_at: Moment
    window: str
    jobs: JobFigures
    queue: LineFigures
    by_model_profile: list[ProfileFigures]
    by_owner: list[OwnerFigures]
    by_task_type: list[TypeFigures]
    errors: ErrorFigures
    throughput: ThroughputFigures
    latency: LatencyFigures
    attempts: AttemptFigures
    workers: list[WorkerAnswer]
    dispatch: DispatchFigures
    webhooks: WebhookFigures
    tokens: dict[str, int]
    db: DatabaseFigures


class WorkersAnswer(BaseModel):
    """Everybody who works, or worked within a day."""

    workers: list[WorkerAnswer]


class RetryAnswer(BaseModel):
    """How jobs are retried where that differs from the table."""

    base_seconds: int | None
    cap_seconds: int | None
    retry_codes: list[str]
    terminal_codes: list[str]


class QueueAnswer(BaseModel):
    """A queue; null is the default."""

    model_profile: str
    paused: bool
    held_until: Moment | None
    held_reason: str | None
    max_running: int | None
    lease_seconds: int | None
    timeout_seconds: int | None
    retry: RetryAnswer | None
    pending: int
    running: int


class QueuesAnswer(BaseModel):
    """Every queue."""

    queues: list[QueueAnswer]


class OwnerAnswer(BaseModel):
    """What an owner may have; null is no limit."""

    owner_service: str
    weight: float
    max_pending: int | None
    max_running: int | None
    priority_cap: int | None
    input_bytes_per_day: int | None
    tokens_per_day: int | None


class OwnersAnswer(BaseModel):
    """Every owner that something is set for."""

    owners: list[OwnerAnswer]


class DeliveryAnswer(BaseModel):
    """An event that is, was or will be told to a callback."""

    id: str
    job_id: str
    owner_service: str
    event: str
    endpoint: str
    status: DeliveryStatus
    tries: int
    next_at: Moment | None
    last_status: int | None
    last_error: str | None
    created_at: Moment


class DeliveriesAnswer(BaseModel):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryAnswer]
    next_cursor: str | None


class RedeliveryAnswer(BaseModel):
    """A delivery that is queued anew."""

    id: str
    status: DeliveryStatus
