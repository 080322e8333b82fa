"""Jobs of the types transcribe and transcribe_url: a recording, written down."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from api.auth import caller_of_a_job
from api.errors import InvalidFields, Problem
from api.jobs.bounds import beyond
from api.sampling import keep_alive_of, within
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.transcripts import content_of, json_body, segment_body, usage_body
from api.uploads import UploadFolder
from application.job_handlers import JobDone, Tell
from application.job_profiles import ModelProfiles
from application.residency import spec_for
from application.stored_files import StoredFiles
from application.transcribe_audio import TranscriptionStarted
from domain.errors import (
    DeadlineExceeded,
    DownloadFailed,
    EmptyAudio,
    GenerationFailed,
    InvalidRequest,
    UnsupportedCapability,
    UnsupportedParameter,
)
from domain.job import Job
from domain.model import ModelSpec, Task, WeightFormat
from domain.stored_file import file_id_of
from domain.transcription import Progress, Transcript, TranscriptionRequest

SOURCES = ("url", "file_path", "file_id")


class RecordingInput(TranscribeOptions):
    """Where a recording lies, and how it is to be written down."""

    url: str | None = None
    file_path: str | None = None
    file_id: str | None = None

    def check_source(self) -> None:
        """Raise InvalidFields unless exactly one place is named."""
        named = [name for name in SOURCES if getattr(self, name)]
        if len(named) != 1:
            problem = "name the recording by exactly one of url, file_path and file_id"
            raise InvalidFields([Problem((name,), problem) for name in named or SOURCES[:1]])


class TranscribeHandler:
    """Writes down a recording that lies on another server, or was uploaded for this job."""

    def __init__(self, services: Services, profiles: ModelProfiles, folder: UploadFolder, files: StoredFiles) -> None:
        self._services = services
        self._profiles = profiles
        self._folder = folder
        self._files = files

    async def __call__(self, job: Job, tell: Tell) -> JobDone:
        """What is said in the recording."""
        given = options_of(RecordingInput, body=job.input)
        given.check_source()
        if given.stream:
            raise UnsupportedParameter("stream: a job answers in one piece", field="stream")
        if given.model not in (None, job.model_profile):
            raise InvalidFields([Problem(("model",), "is not the job's model_profile")])
        try:
            return await self._done(job, given, tell)
        except UnsupportedCapability as error:
            # The contract of speech has one code for everything that is wrong with the wish.
            raise InvalidRequest(str(error), field=error.field) from None

    async def _done(self, job: Job, given: RecordingInput, tell: Tell) -> JobDone:
        name = self._profiles.model_of(job.model_profile)
        spec_for(self._services.pool, name, Task.SPEECH)
        wish = given.domain_request(
            beam_size=self._services.defaults.speech_beam_size,
            timeout_seconds=within(given.timeout, beyond(job)),
            client=f"job:{job.owner_service}",
            request_id=job.id,
            interactive=False,
        )
        keep_alive = keep_alive_of(self._services.limits, caller_of_a_job(self._services.keys), given.keep_alive)
        began = self._services.clock.monotonic()
        async with self._recording(job, given) as path:
            started, said = await self._hear(name, path, wish, keep_alive, tell)
        model = started.model
        result = {
            "schema_version": "ai.transcription_result.v1",
            "provider": _provider_of(model.spec),
            **json_body(said, given, model.id, job.id),
            "segments": [segment_body(one, with_words=given.word_timestamps) for one in said.segments],
            "duration_ms": round(1000 * (self._services.clock.monotonic() - began)),
        }
        if given.response_format != "json":
            content = await content_of(said, given, model.id, job.id)
            result["rendered"] = {"format": given.response_format, "content": content}
        return JobDone(result, usage_body(said))

    async def _hear(
        self, name: str, path: Path, wish: TranscriptionRequest, keep_alive: float | None, tell: Tell
    ) -> tuple[TranscriptionStarted, Transcript]:
        started: TranscriptionStarted | None = None
        async with aclosing(self._services.transcribe.stream(name, path, wish, keep_alive=keep_alive)) as events:
            async for event in events:
                if isinstance(event, TranscriptionStarted):
                    started = event
                elif isinstance(event, Progress):
                    tell(_progress_record(event))
                elif isinstance(event, Transcript) and started is not None:
                    return started, event
        raise GenerationFailed("the model's stream ended without a transcript")

    @asynccontextmanager
    async def _recording(self, job: Job, given: RecordingInput) -> AsyncGenerator[Path, None]:
        """Where it lies, while the block runs."""
        if not given.url:
            file = await self._files.find(file_id_of(given.file_path or given.file_id or ""), (job.owner_service,))
            if file.size == 0:
                raise EmptyAudio("the upload is empty")
            yield await self._files.path_of(file)
            return
        async with self._folder.lent_path() as path:
            if not await self._fetch(given.url, path):
                raise EmptyAudio("there is nothing at that address")
            yield path

    async def _fetch(self, url: str, path: Path) -> int:
        try:
            return await self._services.fetcher.fetch(url, path, max_bytes=self._services.limits.upload_bytes)
        except DeadlineExceeded as error:
            # It is the other server that is slow, not the job.
            raise DownloadFailed(str(error)) from None


def _provider_of(spec: ModelSpec) -> str:
    return spec.family if spec.format is WeightFormat.REMOTE else "local"


def _progress_record(progress: Progress) -> dict[str, Any]:
    total = progress.total
    return {
        "current": round(progress.processed, 1),
        "total": None if total is None else round(total, 1),
        "unit": "seconds",
        "percent": min(100, int(100 * progress.processed / total)) if total else None,
    }
