"""The worker of the server, over the models of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from api.canonical import weighed
from api.jobs.handlers import job_handlers
from api.native.as_job import GenerateHandler
from api.uploads import UploadFolder
from application.job_ports import WakeUp
from application.job_profiles import ModelProfiles
from application.worker import Worker
from application.worker_options import WorkerOptions
from tests.api.jobs.conftest import Office
from tests.api.world import SPEECH
from tests.fakes.jobs import InMemoryJobRepository
from tests.fakes.workers import InMemoryWorkers


@asynccontextmanager
async def at_work(office: Office, *, whisperx: str = SPEECH) -> AsyncIterator[Worker]:
    """Jobs of the office are run until the block ends; `whisperx` is the model of that profile."""
    services = replace(office.world.services, jobs=office.services)
    profiles = ModelProfiles(services.pool, {"whisperx": whisperx})
    handlers = job_handlers(services, profiles, UploadFolder(services.uploads_dir), office.services.files)
    jobs = office.services.jobs
    bell: WakeUp = jobs.bell if isinstance(jobs, InMemoryJobRepository) else office.kept.bell
    worker = Worker(
        jobs,
        office.services.rules,
        InMemoryWorkers(),
        bell,
        {**handlers, "generate": GenerateHandler(services, profiles)},
        profiles,
        weighed,
        WorkerOptions("w/1", "w", "here", 1, beat_seconds=0.01),
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.drain(0)
        await running
