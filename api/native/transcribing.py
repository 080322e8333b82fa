"""One recording and how it is to be written down: as one answer, or as a stream of events."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.auth import caller_of
from api.background import Accepted, refuse_stream, submit_job
from api.error_shapes import detail_of, public
from api.errors import statuses_of
from api.request_ids import request_id_of
from api.sampling import keep_alive_of
from api.services import Services
from api.speech_options import TranscribeOptions
from api.streaming import NAMED_SSE, Record, streamed, unless_client_leaves
from api.transcripts import answer_of, content_of, segment_body
from application.residency import spec_for
from application.transcribe_audio import TranscriptionStarted
from domain.errors import EmptyAudio
from domain.model import Task
from domain.transcription import LanguageHeard, Progress, Segment, Transcript

PROGRESS_SECONDS = 1.0

Audio = AbstractAsyncContextManager[Path]
"""Where the recording lies while the block runs."""


def check_not_empty(size: int) -> None:
    """Raise EmptyAudio for a file of `size` 0."""
    if size == 0:
        raise EmptyAudio("the upload is empty")


class TranscribeCall:
    """One request: the options, and the model that was asked for. Raises for options that make no sense."""

    def __init__(self, services: Services, request: Request, options: TranscribeOptions) -> None:
        self.options = options
        self.name = options.model_or_default(services)
        self._services = services
        self._request = request
        self._request_id = request_id_of(request.scope)
        self._keep_alive = keep_alive_of(services.limits, caller_of(request.scope), options.keep_alive)
        self._wish = options.request(services, request)

    async def respond(self, audio: Audio) -> Response:
        """What was asked for. `audio` is entered for the work and left when it is over, in a stream after this call."""
        return await (self.stream(audio) if self.options.stream else self.answer(audio))

    async def answer(self, audio: Audio) -> Response:
        """Everything at once."""
        transcript = await self.transcript(audio)
        return await answer_of(transcript, self.options, self.name, self._request_id)

    async def transcript(self, audio: Audio) -> Transcript:
        """Everything at once; the work ends when the client leaves."""
        return await unless_client_leaves(self._request.receive, self.hear(audio))

    async def hear(self, audio: Audio) -> Transcript:
        """The same, for a caller who looks after the client."""
        async with audio as path:
            done = await self._services.transcribe.complete(self.name, path, self._wish, keep_alive=self._keep_alive)
            return done.transcript

    def check_background(self) -> None:
        """Raise what the direct call would before it hears anything, and for a stream."""
        refuse_stream(self.options.stream)
        spec_for(self._services.pool, self.name, Task.SPEECH)

    async def submit(
        self, task_type: str, source: Mapping[str, Any], *, heard: Mapping[str, Any] | None = None
    ) -> Accepted:
        """The same as a job of that type, whose recording lies at `source`; `heard` tells recordings apart."""
        said = self.options.as_json()
        same = {**said, **(heard or source)}
        return await submit_job(self._services, self._request, task_type, self.name, {**said, **source}, same=same)

    async def stream(self, audio: Audio) -> Response:
        """Events as they come."""
        return await streamed(
            self._request,
            self._records(audio),
            NAMED_SSE,
            ping_seconds=self._services.limits.ping_seconds,
            stall_seconds=self._services.limits.stall_seconds,
            error_record=error_record,
        )

    async def _records(self, audio: Audio) -> AsyncGenerator[Record, None]:
        queued: dict[str, Any] | None = None
        pace: ProgressPace | None = None
        async with (
            audio as path,
            aclosing(
                self._services.transcribe.stream(self.name, path, self._wish, keep_alive=self._keep_alive)
            ) as events,
        ):
            async for event in events:
                if isinstance(event, TranscriptionStarted):
                    queued = self._queued(event)
                    continue
                if queued is not None:
                    # Not before the model's first event: until then bad audio can still have its real status.
                    yield queued
                    queued = None
                if isinstance(event, LanguageHeard):
                    yield {
                        "type": "language",
                        "language": event.language,
                        "probability": round(event.probability, 4),
                    }
                elif isinstance(event, Segment):
                    yield {"type": "segment", "segment": self._segment(event)}
                elif isinstance(event, Progress):
                    now = self._services.clock.monotonic()
                    pace = pace or ProgressPace(now)
                    progress = pace.record(event, now)
                    if progress is not None:
                        yield progress
                else:
                    yield await self._done(event)

    def _queued(self, started: TranscriptionStarted) -> dict[str, Any]:
        eta = started.queue.eta_seconds
        return {
            "type": "queued",
            "request_id": self._request_id,
            "position": started.queue_position,
            "eta_seconds": None if eta is None else round(eta, 1),
        }

    def _segment(self, segment: Segment) -> dict[str, Any]:
        return segment_body(segment, raw_text=True, with_words=self.options.word_timestamps)

    async def _done(self, transcript: Transcript) -> Record:
        content = await content_of(transcript, self.options, self.name, self._request_id)
        form = self.options.response_format
        return {"type": "done", "body": content if form == "json" else {"format": form, "content": content}}


class ProgressPace:
    """Progress as records, at most one a second, except the last one."""

    def __init__(self, began_at: float) -> None:
        self._began_at = began_at
        self._last_at: float | None = None

    def record(self, progress: Progress, now: float) -> dict[str, Any] | None:
        """The record for `progress` at `now` (monotonic seconds), or None if it is too soon for one."""
        total = progress.total
        is_last = total is not None and not progress.estimated and progress.processed >= total
        if self._last_at is not None and now - self._last_at < PROGRESS_SECONDS and not is_last:
            return None
        self._last_at = now
        percent, eta = None, None
        if total:
            percent = min(100, int(100 * progress.processed / total))
            if progress.processed > 0:
                eta = round((now - self._began_at) / progress.processed * (total - progress.processed), 1)
        return {
            "type": "progress",
            "processed_seconds": round(progress.processed, 2),
            "total_seconds": None if total is None else round(total, 2),
            "percent": percent,
            "eta_seconds": eta,
            "estimated": progress.estimated,
        }


def error_record(error: Exception, request_id: str) -> Record:
    """The event that ends a stream that failed."""
    failure = public(error)
    return {
        "type": "error",
        "status": statuses_of(failure).native,
        "code": failure.code,
        "detail": detail_of(failure),
        "request_id": request_id,
    }
