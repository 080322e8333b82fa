"""POST /transcribe: a recording in, what is said in it out."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.docs_page import schema_of
from api.error_shapes import detail_of, public
from api.errors import statuses_of
from api.native.transcribe_body import TranscribeOptions, parse_options
from api.native.transcripts import answer_of, content_of, segment_body
from api.not_offered import refuse_background
from api.request_ids import request_id_of
from api.sampling import deadline_of, keep_alive_of
from api.services import Services
from api.streaming import NAMED_SSE, Record, streamed, unless_client_leaves
from api.uploads import Upload, UploadFolder, received_upload
from application.transcribe_audio import TranscriptionStarted
from domain.errors import EmptyAudio
from domain.transcription import LanguageHeard, Progress, Segment, Transcript, TranscriptionRequest

FILE_FIELDS = ("file", "audio_file", "audio")
PROGRESS_SECONDS = 1.0


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post("/transcribe", summary="Write down what is said in a recording", openapi_extra=_description())
    async def transcribe(request: Request) -> Response:
        refuse_background(request)
        async with AsyncExitStack() as stack:
            upload = await stack.enter_async_context(
                received_upload(
                    request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS, media=is_recording
                )
            )
            call = TranscribeCall(services, request, upload)
            if not call.options.stream:
                return await call.answer()
            # From here on the file belongs to the stream, which ends after this function.
            return await call.stream(stack.pop_all())

    return router


def is_recording(media_type: str) -> bool:
    """Whether a bare body of that type may be a recording; its bytes decide later."""
    return media_type.startswith(("audio/", "video/")) or media_type == "application/octet-stream"


class TranscribeCall:
    """One request: the file, the options, and the model that was asked for."""

    def __init__(self, services: Services, request: Request, upload: Upload) -> None:
        self.options = parse_options(upload.fields, request.query_params.multi_items())
        if upload.size == 0:
            raise EmptyAudio("the upload is empty")
        self._services = services
        self._request = request
        self._upload = upload
        self._request_id = request_id_of(request.scope)
        self._name = self.options.model or services.defaults.speech_model
        self._keep_alive = keep_alive_of(self.options.keep_alive)
        self._wish: TranscriptionRequest = self.options.request(
            beam_size=services.defaults.speech_beam_size,
            timeout_seconds=deadline_of(request, self.options.timeout, services.limits.transcription_seconds),
            request_id=self._request_id,
        )
        # A width that no cue can have is refused before the recording is listened to.
        self.options.cue_options()

    async def answer(self) -> Response:
        """Everything at once."""
        work = self._services.transcribe.complete(
            self._name, self._upload.path, self._wish, keep_alive=self._keep_alive
        )
        done = await unless_client_leaves(self._request.receive, work)
        return await answer_of(done.transcript, self.options, self._name, self._request_id)

    async def stream(self, held: AsyncExitStack) -> Response:
        """Events as they come. `held` is closed, and with it the file removed, when the stream is over."""
        return await streamed(
            self._request,
            self._records(held),
            NAMED_SSE,
            ping_seconds=self._services.limits.ping_seconds,
            stall_seconds=self._services.limits.stall_seconds,
            error_record=error_record,
        )

    async def _records(self, held: AsyncExitStack) -> AsyncGenerator[Record, None]:
        pace = ProgressPace(self._services.clock.monotonic())
        queued: dict[str, Any] | None = None
        async with (
            held,
            aclosing(
                self._services.transcribe.stream(self._name, self._upload.path, self._wish, keep_alive=self._keep_alive)
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
                    progress = pace.record(event, self._services.clock.monotonic())
                    if progress is not None:
                        yield progress
                else:
                    async for record in self._last_records(event):
                        yield record

    def _queued(self, started: TranscriptionStarted) -> dict[str, Any]:
        return {
            "type": "queued",
            "request_id": self._request_id,
            "position": started.queue_position,
            "eta_seconds": started.queue.eta_seconds,
        }

    def _segment(self, segment: Segment) -> dict[str, Any]:
        return segment_body(segment, raw_text=True, with_words=self.options.word_timestamps)

    async def _last_records(self, transcript: Transcript) -> AsyncGenerator[Record, None]:
        content = await content_of(transcript, self.options, self._name, self._request_id)
        form = self.options.response_format
        yield {"type": "done", "body": content if form == "json" else {"format": form, "content": content}}


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


def _description() -> dict[str, Any]:
    schema = schema_of(TranscribeOptions)
    file = {"type": "string", "format": "binary"}
    form = {**schema, "properties": {"file": file, **schema["properties"]}, "required": ["file"]}
    return {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": file}},
        }
    }
