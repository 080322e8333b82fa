"""Where jobs are kept: what is asked of the keeper, what it answers, and its contract."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from domain.errors import IngleError
from domain.job import Attempt, Job, JobEvent, JobStatus
from domain.new_job import DAY_MS, NewBatch, NewJob


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a new job came to lie: its own row, or one that was there (`created` false). `job` is None in a replay."""

    id: str
    status: JobStatus
    created: bool
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """The answer to `add`, one entry for each new job in order; `replayed` where a key had been used before."""

    placed: Sequence[Placed]
    batch_id: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: every field that is given must match exactly. `owners` None sees everybody's."""

    owners: Collection[str] | None = None
    owner_service: Collection[str] = ()
    owner_ref: Collection[str] = ()
    task_type: Collection[str] = ()
    model_profile: Collection[str] = ()
    status: Collection[JobStatus] = ()
    error_code: Collection[str] = ()
    batch_id: Collection[str] = ()
    idempotency_key: Collection[str] = ()
    created_after: int | None = None
    created_before: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first; `next_before` is the `before` of the next page, None after the last."""

    jobs: Sequence[Job]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's wish for work. Empty `task_types` or `model_profiles` mean any.

    `lease_ms` None takes the queue's, else the keeper's. Profiles in `loaded` come first while others do not starve.
    `job_id` asks for that one job only.
    """

    worker_id: str
    limit: int
    task_types: Collection[str] = ()
    model_profiles: Collection[str] = ()
    lease_ms: int | None = None
    loaded: Collection[str] = ()
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A holder says that it lives, and how far it has come."""

    job_id: str
    lease_token: str
    attempt: int | None = None
    progress: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Extension:
    """The lease after a heartbeat. `cancel_reason` is `timeout` once the deadline has passed."""

    job_id: str
    attempt: int
    lease_expires_at: int
    deadline_at: int
    cancel_requested: bool
    cancel_reason: str | None


@dataclass(frozen=True, slots=True)
class Complete:
    """The work is done. `result_sha256` is of the canonical JSON of `result`."""

    result: Any
    result_sha256: str
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """The work failed with a code of the retry table, or any other."""

    code: str
    message: str | None = None
    retry_after_ms: int = 0
    retryable: bool | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """The work goes back undone; no failure is counted."""

    delay_ms: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a holder reports of its attempt. A missing token is accepted at attempt 1 (never for a Release).

    With `require_token` it never is.
    """

    job_id: str
    report: Complete | Fail | Release
    lease_token: str | None = None
    attempt: int | None = None
    require_token: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The job after a report; `replayed` where this very report had been written before."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """The owner wants jobs gone."""

    actor: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Somebody wants jobs to run again. `force` takes running ones from their workers."""

    actor: str
    force: bool = False
    max_attempts: int | None = None
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """The owner wants the rows of ended jobs removed, queued deliveries with them."""

    actor: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The job after a change (before it, for a Delete); `changed` is false where it was so already."""

    job: Job
    changed: bool


@dataclass(frozen=True, slots=True)
class Promote:
    """Deferred jobs that are due become ready."""


@dataclass(frozen=True, slots=True)
class Expire:
    """Pending jobs whose time is over fail with `expired`."""


@dataclass(frozen=True, slots=True)
class Reap:
    """Leases that ran out, and those of `dead_workers`, are taken away."""

    dead_workers: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Prune:
    """Jobs that ended that long ago go; `payload_ms` blanks input and result earlier, None never."""

    completed_ms: int = 7 * DAY_MS
    failed_ms: int = 30 * DAY_MS
    cancelled_ms: int = 7 * DAY_MS
    payload_ms: int | None = None


Chore = Promote | Expire | Reap | Prune


class JobRepository(Protocol):
    """Where jobs are kept. Its own clock decides everything, the caller's nothing.

    * What an awaited call has answered survives a crash of this process; what raised has not happened.
    * At most one claim holds a job; `attempt` grows with each. A token that is not the row's changes nothing.
    * Every transition appends an event, ended attempts a record, ends with a callback_url a delivery: all or nothing.
    * `owners` of a call hides other owners' jobs (JobNotFound, by the same work as for one that is not there); None
      sees all.
    * Any call raises DatabaseUnavailable, DatabaseBusy or StorageFull, and then holds nothing.
    """

    async def add(self, jobs: Sequence[NewJob], batch: NewBatch | None = None) -> Added:
        """Put jobs in line, all or none of them.

        Raises IdempotencyMismatch, DedupeConflict, PriorityAboveCap, QuotaExceeded, InvalidRequest; `details["index"]`
        tells which job, where a batch was given.
        """
        ...

    async def get(self, job_id: str, owners: Collection[str] | None = None, profiles: Collection[str] = ()) -> Job:
        """That job. Raises JobNotFound. `owners` hides none of a model profile in `profiles`."""
        ...

    async def search(
        self, wanted: JobFilter, limit: int, before: int | None = None, *, payloads: Collection[str] = ()
    ) -> Page:
        """At most `limit` jobs with `seq` below `before`; `input` and `result` only where `payloads` names them."""
        ...

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take ready jobs, best first: of the highest priority, the smallest tag, the oldest. Empty without work."""
        ...

    async def extend(self, beats: Sequence[Heartbeat]) -> Sequence[Extension | IngleError]:
        """Prolong leases, one answer for each in order: the extension, or a LeaseLost or JobNotFound to raise.

        A lease never grows past its attempt's deadline.
        """
        ...

    async def settle(self, settlement: Settlement) -> Settled:
        """Write the end of an attempt, once.

        Raises JobNotFound, LeaseLost, LeaseRequired, AlreadyCompleted, InvalidTransition.
        """
        ...

    async def change(
        self, action: Cancel | Retry | Delete, job_ids: Sequence[str], owners: Collection[str] | None = None
    ) -> Sequence[Changed | IngleError]:
        """Do that to each job, in one transaction, one answer for each in order.

        An answer may be a JobNotFound, JobCompleted, InvalidTransition or DedupeConflict to raise; it concerns that
        job only.
        """
        ...

    async def sweep(self, chore: Chore) -> int:
        """Do a chore once, in bounded steps; any number of processes may at the same time. Returns rows changed."""
        ...


class JobHistory(Protocol):
    """What happened to a job. Both raise JobNotFound."""

    async def attempts(self, job_id: str, owners: Collection[str] | None = None) -> Sequence[Attempt]:
        """Its ended attempts, in order."""
        ...

    async def events(self, job_id: str, after: int = 0, owners: Collection[str] | None = None) -> Sequence[JobEvent]:
        """Its events with `seq` above `after`, in order."""
        ...
