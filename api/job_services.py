"""What the routes of jobs are given."""

from collections.abc import Callable
from dataclasses import dataclass, field

from application.claim_desk import ClaimDesk
from application.job_ports import DatabaseHealth, JobRules, JobStatistics, Outbox, WorkerRegister
from application.job_queue import JobDefaults, JobQueue
from application.ports import Clock
from application.stored_files import StoredFiles
from domain.job_repository import JobHistory, JobRepository

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Sizes in bytes, counts, and the shortest lease in seconds that a worker may ask for."""

    input_bytes: int = MIB
    result_bytes: int = 8 * MIB
    batch_jobs: int = 10_000
    batch_bytes: int = 32 * MIB
    lease_seconds: int = 10


@dataclass(frozen=True, slots=True)
class JobServices:
    """Everything that the routes of jobs reach.

    `claim_limit` is for claims that name none. With `require_lease_token` no report is taken without its token.
    `broker` says how the broker of Celery workers does: ok, down, or disabled where there is none.
    """

    queue: JobQueue
    desk: ClaimDesk
    jobs: JobRepository
    files: StoredFiles
    history: JobHistory
    rules: JobRules
    workers: WorkerRegister
    outbox: Outbox
    statistics: JobStatistics
    health: DatabaseHealth
    clock: Clock
    defaults: JobDefaults = field(default_factory=JobDefaults)
    limits: JobLimits = field(default_factory=JobLimits)
    claim_limit: int = 4
    require_lease_token: bool = False
    broker: Callable[[], str] = lambda: "disabled"
