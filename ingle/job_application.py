"""The part of the composition root that serves and runs jobs, and how it starts and stops."""

import asyncio
import os
import platform
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace

import structlog

from api.canonical import weighed
from api.job_services import JobLimits, JobServices
from api.jobs.handlers import job_handlers
from api.native.as_job import GenerateHandler
from api.services import Services
from api.uploads import UploadFolder
from application.attendance import Attendance
from application.claim_desk import ClaimDesk
from application.dispatcher import Dispatcher
from application.job_profiles import ModelProfiles
from application.job_queue import CHAT_TYPES, HANDLED_TYPES, SPEECH_TYPES, JobDefaults, JobQueue
from application.recent_statistics import RecentStatistics
from application.sweeper import Paces, Sweeper
from application.webhooks import Webhooks, WebhookSecrets
from application.worker import Worker
from application.worker_options import WorkerOptions
from domain.errors import IngleError
from domain.job_repository import Prune
from infrastructure.addresses import AddressRules
from infrastructure.outbound import OutboundPolicy
from infrastructure.webhook_sender import SafeWebhookSender
from ingle.bootstrap_jobs import JobKeeping, keep_jobs
from ingle.celery_dispatch import dispatcher
from ingle.external_models import llm_model
from ingle.settings import Settings
from ingle.settings_worker import webhook_keys

_RETRY_SECONDS = 1.0
_SELDOM = 5
_log = structlog.get_logger("ingle.jobs")


@dataclass(frozen=True, slots=True)
class Share:
    """What one Celery worker runs: these task types, so many jobs at a time."""

    task_types: Collection[str]
    limit: int


@dataclass(frozen=True, slots=True)
class JobApplication:
    """Everything around jobs in one process. `worker` is None where other processes run them."""

    services: JobServices
    worker: Worker | None
    dispatcher: Dispatcher | None
    sweeper: Sweeper
    keeping: JobKeeping
    folder: UploadFolder

    async def run(self) -> None:
        """Open the database, as soon as there is one, and work until `stop`.

        Raises SchemaMismatch for a database of a newer version.
        """
        while True:
            try:
                await self.keeping.start()
                break
            except IngleError as error:
                if not error.retryable:
                    raise
                _log.warning("no database yet", code=error.code, reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
        beside = [asyncio.create_task(self.sweeper.run(), name="sweeper")]
        if self.dispatcher is not None:
            beside.append(asyncio.create_task(self.dispatcher.run(), name="dispatcher"))
        try:
            if self.worker is None:
                await asyncio.gather(*beside)
            else:
                await self._take_over(self.worker)
                await self.worker.run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _take_over(self, worker: Worker) -> None:
        await asyncio.to_thread(self.folder.open)
        try:
            await worker.take_over(_is_alive)
        except IngleError as error:
            # Their leases run out all the same.
            _log.warning("jobs of dead workers wait for their leases", code=error.code)

    async def stop(self, drain: float) -> None:
        """Hand out no more jobs, let those that run here end within `drain` seconds, give back the rest."""
        self.services.desk.stop()
        if self.worker is not None:
            await self.worker.drain(drain)

    async def close(self) -> None:
        """Let go of the database; nothing may run any more."""
        self.folder.close()
        await self.keeping.close()


def job_application(
    settings: Settings, services: Services, *, kind: str = "embedded", share: Share | None = None
) -> JobApplication:
    """Wire jobs around the use cases of `services`. The database file is opened; nothing is read before `run`.

    `kind` is embedded in a server, worker in a process of its own, celery in a Celery worker, of which `share` is
    what it runs. Raises BadSettings where a broker is wanted and cannot be used.
    """
    dispatches = kind == "celery" or "celery" in settings.jobs_executor
    keeping = keep_jobs(settings, dispatched=HANDLED_TYPES if dispatches else ())
    telling = dispatcher(settings, keeping) if dispatches else None
    webhooks = _webhooks(settings, services, keeping)
    # With WHISPERX_URL it is a model of its own.
    further = {} if settings.whisperx_url else {"whisperx": settings.default_speech_model}
    profiles = ModelProfiles(services.pool, further)
    folder = UploadFolder(services.uploads_dir)
    works = kind != "embedded" or "embedded" in settings.jobs_executor
    return JobApplication(
        services=_served(settings, services, keeping, webhooks, telling),
        worker=_worker(settings, services, keeping, profiles, folder, kind, share) if works else None,
        dispatcher=telling,
        sweeper=Sweeper(
            keeping.jobs,
            keeping.statistics,
            webhooks,
            keeping.files,
            Paces(
                reap=settings.jobs_reap_interval,
                promote=min(1.0, settings.jobs_reap_interval),
                files=settings.jobs_reap_interval,
            ),
            _retention(settings),
        ),
        keeping=keeping,
        folder=folder,
    )


def _served(
    settings: Settings, services: Services, keeping: JobKeeping, webhooks: Webhooks, telling: Dispatcher | None
) -> JobServices:
    chat, speech = llm_model(settings) or settings.default_model, settings.default_speech_model
    return JobServices(
        queue=JobQueue(keeping.jobs, webhooks, keeping.files),
        desk=ClaimDesk(keeping.jobs, keeping.wake_up, Attendance(keeping.workers, services.clock)),
        jobs=keeping.jobs,
        files=keeping.files,
        history=keeping.history,
        rules=keeping.rules,
        workers=keeping.workers,
        outbox=keeping.outbox,
        statistics=RecentStatistics(keeping.statistics, services.clock),
        health=keeping.health,
        clock=services.clock,
        defaults=JobDefaults(
            profiles={
                **dict.fromkeys((*CHAT_TYPES, "generate"), chat),
                **dict.fromkeys(SPEECH_TYPES, speech),
                "embed": settings.default_embedding_model,
            },
            timeouts_ms={
                **dict.fromkeys(CHAT_TYPES, round(1000 * settings.llm_timeout)),
                **dict.fromkeys(SPEECH_TYPES, 3_600_000),
            },
        ),
        limits=JobLimits(
            input_bytes=settings.jobs_max_input_bytes,
            result_bytes=settings.jobs_max_result_bytes,
            batch_jobs=settings.jobs_max_batch,
            batch_bytes=settings.jobs_max_batch_bytes,
            lease_seconds=round(settings.jobs_lease_min),
        ),
        claim_limit=settings.worker_claim_limit,
        require_lease_token=settings.jobs_require_lease_token,
        broker=lambda: "disabled" if telling is None else "ok" if telling.is_up else "down",
    )


def _webhooks(settings: Settings, services: Services, keeping: JobKeeping) -> Webhooks:
    rules = AddressRules(settings.fetch_allow_cidrs, tuple(host.lower() for host in settings.fetch_allow_hosts))
    policy = OutboundPolicy(rules, frozenset(settings.fetch_ports), schemes=frozenset({"https"}))
    text = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
    secret_keys = WebhookSecrets(webhook_keys(text))
    return Webhooks(keeping.jobs, keeping.outbox, SafeWebhookSender(policy), secret_keys, services.clock)


def _worker(
    settings: Settings,
    services: Services,
    keeping: JobKeeping,
    profiles: ModelProfiles,
    folder: UploadFolder,
    kind: str,
    share: Share | None,
) -> Worker:
    handlers = {
        **job_handlers(services, profiles, folder, keeping.files),
        "generate": GenerateHandler(services, profiles),
    }
    poll, limit = settings.worker_poll_interval, settings.worker_claim_limit
    if share is not None:
        handlers = {task: handler for task, handler in handlers.items() if task in share.task_types}
        # The broker tells of jobs; this is for what it loses.
        poll, limit = _SELDOM * poll, share.limit
    return Worker(
        keeping.jobs,
        keeping.rules,
        keeping.workers,
        keeping.wake_up,
        handlers,
        profiles,
        weighed,
        WorkerOptions(
            # The suffix makes two processes of one name two workers.
            worker_id=f"{settings.worker_id}/{secrets.token_hex(4)}",
            name=settings.worker_id,
            host=platform.node(),
            pid=os.getpid(),
            kind=kind,
            limit=limit,
            poll_seconds=poll,
            beat_seconds=min(1.0, settings.jobs_lease / 3),
            hinted=share is None,
            result_bytes=settings.jobs_max_result_bytes,
        ),
    )


def _retention(settings: Settings) -> Prune:
    ttl = settings.jobs_payload_ttl
    return Prune(
        completed_ms=round(1000 * settings.jobs_keep_completed),
        failed_ms=round(1000 * settings.jobs_keep_failed),
        cancelled_ms=round(1000 * settings.jobs_keep_cancelled),
        payload_ms=None if ttl is None else round(1000 * ttl),
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def with_jobs(services: Services, jobs: JobApplication) -> Services:
    """The same services, and jobs."""
    return replace(services, jobs=jobs.services)
