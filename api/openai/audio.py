"""POST /v1/audio/transcriptions and /v1/audio/translations: a recording in, text out."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.docs_page import schema_of
from api.error_shapes import openai_error, public
from api.openai.audio_answer import json_content, text_events
from api.openai.audio_body import AudioOptions, audio_options
from api.openai.envelope import Json
from api.sampling import keep_alive_of
from api.services import Services
from api.streaming import SSE, Record, streamed, unless_client_leaves
from api.transcripts import rendered, text_answer
from api.uploads import UploadFolder, received_files
from domain.access import Scope
from domain.errors import EmptyAudio
from domain.transcription import SpeechTask

FILE_FIELDS = ("file",)


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/audio/transcriptions", summary="Write down what is said", openapi_extra=_description())
    @needs(Scope.INFER)
    async def transcriptions(request: Request) -> Response:
        return await _respond(services, folder, request)

    @router.post("/v1/audio/translations", summary="Say it in English", openapi_extra=_description())
    @needs(Scope.INFER)
    async def translations(request: Request) -> Response:
        return await _respond(services, folder, request, SpeechTask.TRANSLATE)

    return router


async def _respond(
    services: Services, folder: UploadFolder, request: Request, task: SpeechTask | None = None
) -> Response:
    async with AsyncExitStack() as stack:
        received = await stack.enter_async_context(
            received_files(request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS)
        )
        call = _AudioCall(services, request, audio_options(received.fields, task))
        [upload] = received.files
        if upload.size == 0:
            raise EmptyAudio("the upload is empty")
        if not call.options.stream:
            return await call.answer(upload.path)
        # From here on the file belongs to the stream, which ends after this function.
        return await call.stream(stack.pop_all(), upload.path)


class _AudioCall:
    """One request, read and checked."""

    def __init__(self, services: Services, request: Request, options: AudioOptions) -> None:
        self.options = options
        self._services = services
        self._request = request
        self._keep_alive = keep_alive_of(services.limits, caller_of(request.scope), options.keep_alive)
        self._wish = options.request(services, request)

    async def answer(self, audio: Path) -> Response:
        """Everything at once."""
        work = self._services.transcribe.complete(self.options.model, audio, self._wish, keep_alive=self._keep_alive)
        transcript = (await unless_client_leaves(self._request.receive, work)).transcript
        if self.options.response_format in ("json", "verbose_json"):
            return json_answer(json_content(transcript, self.options))
        return text_answer(transcript, await rendered(transcript, self.options), self.options)

    async def stream(self, held: AsyncExitStack, audio: Path) -> Response:
        """Deltas as they come. `held` is closed, and with it the file removed, when the stream is over."""
        return await streamed(
            self._request,
            self._records(held, audio),
            SSE,
            ping_seconds=self._services.limits.ping_seconds,
            stall_seconds=self._services.limits.stall_seconds,
            error_record=lambda error, _: openai_error(public(error)),
        )

    async def _records(self, held: AsyncExitStack, audio: Path) -> AsyncGenerator[Record, None]:
        events = self._services.transcribe.stream(self.options.model, audio, self._wish, keep_alive=self._keep_alive)
        async with held, aclosing(events), aclosing(text_events(events)) as records:
            async for record in records:
                yield record


def _description() -> Json:
    schema = schema_of(AudioOptions)
    file = {"type": "string", "format": "binary"}
    form = {**schema, "properties": {"file": file, **schema["properties"]}, "required": ["file", "model"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
