"""The seams of the job queue beside its repository: rules, workers, deliveries, statistics, wake-ups."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from domain.job_limits import OwnerRules, QueueRules, QueueState


@dataclass(frozen=True, slots=True)
class Holds:
    """The profiles whose jobs nobody may claim (paused, or their breaker open), at the keeper's time in milliseconds.

    That time is the one to judge leases by: the clocks of those who ask may be wrong.
    """

    at: int
    profiles: Collection[str] = ()


class JobRules(Protocol):
    """What the operator set for queues and owners. Changes hold from the next claim or create on.

    * A queue is listed once it has rules, a breaker's hold, or jobs that are not over; an owner once it has rules.
    * Giving rules for a queue leaves the breaker's hold as it is.
    """

    async def queues(self) -> Sequence[QueueState]:
        """Every queue that is listed, by name."""
        ...

    async def waiting(self) -> Collection[str]:
        """Profiles with jobs that may be claimed now, however many. Cheap: whoever works asks all the time."""
        ...

    async def queue(self, model_profile: str) -> QueueState:
        """That queue, listed or not."""
        ...

    async def set_queue(self, rules: QueueRules) -> None:
        """Replace the rules of a queue."""
        ...

    async def owners(self) -> Sequence[OwnerRules]:
        """Every owner with rules, by name."""
        ...

    async def owner(self, owner_service: str) -> OwnerRules:
        """The rules of that owner, listed or not."""
        ...

    async def set_owner(self, rules: OwnerRules) -> None:
        """Replace the rules of an owner."""
        ...

    async def held(self) -> Holds:
        """What may not be claimed now."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker that lives or lived. `worker_id` is what it claims under; times are milliseconds since the epoch.

    `silent_ms` is how long ago the keeper saw it last.
    """

    worker_id: str
    name: str
    kind: str
    host: str
    pid: int
    profiles: tuple[str, ...] = ()
    started_at: int = 0
    last_seen_at: int = 0
    running: int = 0
    silent_ms: int = 0


class WorkerRegister(Protocol):
    """Who works here. Times and `running` are the keeper's; those of a record that is given do not count.

    A heartbeat of a job is a sign of its worker's life too.
    """

    async def seen(self, worker: WorkerRecord) -> None:
        """Note that it lives; the first time, that it started. Callers see to it that this is rare (10 s)."""
        ...

    async def workers(self) -> Sequence[WorkerRecord]:
        """All that were seen within the last day, newest first."""
        ...

    async def forget(self, worker_ids: Collection[str]) -> None:
        """These have ended."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A ready job that workers behind a broker are to be told of; `attempts` were made so far."""

    job_id: str
    task_type: str
    attempts: int


class Dispatchable(Protocol):
    """Hands out what should be told to a broker."""

    async def undispatched(self, limit: int, task_types: Collection[str]) -> Sequence[Call]:
        """Ready jobs that were never told of, oldest first, then those of 30 s ago; noted as told now."""
        ...

    async def untold(self, job_ids: Collection[str]) -> None:
        """These could not be told after all."""
        ...


class Broker(Protocol):
    """A message broker that wakes workers. Whatever it loses or doubles, only time is lost. Raises nothing."""

    async def open_types(self) -> Collection[str] | None:
        """Task types for which it takes calls, because not too many wait there; None while it cannot be reached."""
        ...

    async def publish(self, calls: Sequence[Call]) -> Collection[str]:
        """Send each call, once; the ids of those that were not sent."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...


class DeliveryStatus(StrEnum):
    """Where a delivery stands."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event of a job that is to be told to its callback; `body` is None until it was first rendered.

    Times are milliseconds since the epoch.
    """

    id: str
    job_id: str
    owner_service: str
    event: str
    attempt: int
    job_status: str
    error_code: str | None
    endpoint: str
    headers: Mapping[str, str] | None
    body: str | None
    status: DeliveryStatus
    tries: int
    next_at: int
    last_status: int | None
    last_error: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Tried:
    """How a try ended: with QUEUED, the next comes after `retry_ms`."""

    status: DeliveryStatus
    http_status: int | None = None
    error: str | None = None
    retry_ms: int = 0


class Outbox(Protocol):
    """Deliveries of job events; they are written by the JobRepository, in the transaction of the transition.

    * `take` counts a try and puts the next 60 s ahead, so a dispatcher that dies loses nothing and sends twice at most.
    * GONE ends every queued delivery of that owner to that endpoint; `is_gone` until one to it is delivered.
    """

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Deliveries that are due, oldest first; no two callers get the same."""
        ...

    async def keep_body(self, delivery_id: str, body: str) -> None:
        """Keep what is sent, so that every try sends the same."""
        ...

    async def tried(self, delivery_id: str, outcome: Tried) -> None:
        """Note how a try ended."""
        ...

    async def postpone(self, delivery_id: str, ms: int) -> None:
        """Put back one that was taken and not tried."""
        ...

    async def is_gone(self, owner_service: str, endpoint: str) -> bool:
        """Whether that endpoint said that it is gone."""
        ...

    async def deliveries(
        self,
        limit: int,
        before: str | None = None,
        *,
        status: DeliveryStatus | None = None,
        owner_service: str | None = None,
        job_id: str | None = None,
    ) -> Sequence[Delivery]:
        """Newest first; `before` is the id that the last page ended with."""
        ...

    async def redeliver(self, delivery_id: str) -> None:
        """Queue it anew, now. Raises JobNotFound where there is no such delivery."""
        ...


class JobStatistics(Protocol):
    """Counts and times of jobs. Every number equals a recount of rows and events."""

    async def stats(self, window_ms: int, owners: Collection[str] | None = None) -> Mapping[str, Any]:
        """The document of `GET /stats`, times as milliseconds since the epoch under `…_at` and `…_until`.

        What only the process knows (`dispatch.broker`, which workers are alive) is left to the caller.
        """
        ...

    async def fold(self) -> int:
        """Fold minutes that are over into counts, days after 48 h; returns how many. Any process may, at any time."""
        ...


OnHint = Callable[[Collection[str]], None]


class WakeUp(Protocol):
    """Hints that profiles have ready work. They may be lost, doubled and come late; whoever waits polls too."""

    def listen(self, on_hint: OnHint) -> Callable[[], None]:
        """Call `on_hint` with profiles, on the event loop, until the returned function is called."""
        ...

    def ring(self, profiles: Collection[str]) -> None:
        """Tell everybody, here and in other processes; does not wait."""
        ...


class DatabaseHealth(Protocol):
    """How the database does."""

    async def check(self) -> Mapping[str, str]:
        """`database`: ok, down, or full (it takes no writes); `schema`: ok, behind or unknown.

        Within a second; raises nothing.
        """
        ...
