"""The part of the composition root that opens the database and everything that is kept in it."""

from collections.abc import Collection
from dataclasses import dataclass

from application.job_ports import (
    DatabaseHealth,
    Dispatchable,
    JobRules,
    JobStatistics,
    Outbox,
    WakeUp,
    WorkerRegister,
)
from application.stored_files import StoredFiles
from domain.job_repository import JobHistory, JobRepository
from infrastructure.file_folder import PrivateFolder
from infrastructure.persistence.database import Database
from infrastructure.persistence.files import SqlFileRecords
from infrastructure.persistence.health import SqlDatabaseHealth
from infrastructure.persistence.jobs import SqlJobRepository
from infrastructure.persistence.opening import DatabaseOptions, open_database
from infrastructure.persistence.outbox import SqlOutbox
from infrastructure.persistence.rules import SqlJobRules
from infrastructure.persistence.schema import migrate
from infrastructure.persistence.searching import SqlJobHistory
from infrastructure.persistence.statistics import SqlJobStatistics
from infrastructure.persistence.wake_up import LocalWakeUp
from infrastructure.persistence.workers import SqlDispatchable, SqlWorkerRegister
from ingle.settings import Settings

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class JobKeeping:
    """Everything that is kept of jobs, in one database."""

    jobs: JobRepository
    files: StoredFiles
    history: JobHistory
    rules: JobRules
    workers: WorkerRegister
    dispatchable: Dispatchable
    outbox: Outbox
    statistics: JobStatistics
    health: DatabaseHealth
    wake_up: WakeUp
    _database: Database
    _hints: LocalWakeUp
    _migrate: bool

    async def start(self) -> None:
        """Bring the schema up to date, begin to listen.

        Raises SchemaMismatch where the database is newer, DatabaseUnavailable, DatabaseBusy, StorageFull.
        """
        if self._migrate:
            await migrate(self._database)
        await self._hints.start()

    async def close(self) -> None:
        """Finish what was begun, let go of the database."""
        await self._hints.close()
        await self._database.close()


def keep_jobs(settings: Settings, *, dispatched: Collection[str] = ()) -> JobKeeping:
    """Wire the database that the settings name. SQLite's file is opened; nothing is read before `start`.

    `dispatched` are the task types of which a broker is told.
    """
    options = DatabaseOptions(
        sqlite_synchronous=settings.sqlite_synchronous,
        sqlite_busy_timeout=settings.sqlite_busy_timeout,
        pool_size=settings.db_pool_size,
        connect_timeout=settings.db_connect_timeout,
        statement_timeout=settings.db_statement_timeout,
    )
    database, hints = open_database(settings.database_url or f"sqlite:///{settings.data_dir / 'ingle.db'}", options)
    jobs = SqlJobRepository(database, hints, lease_ms=round(settings.jobs_lease * 1000))
    folder = PrivateFolder(settings.files_dir, min_free_bytes=int(settings.disk_floor_gb * GIB))
    return JobKeeping(
        jobs=jobs,
        files=StoredFiles(SqlFileRecords(database), folder),
        history=SqlJobHistory(database, jobs),
        rules=SqlJobRules(database),
        workers=SqlWorkerRegister(database),
        dispatchable=SqlDispatchable(database),
        outbox=SqlOutbox(database),
        statistics=SqlJobStatistics(database, dispatched=dispatched),
        health=SqlDatabaseHealth(database),
        wake_up=hints,
        _database=database,
        _hints=hints,
        _migrate=settings.migrate_on_start,
    )
