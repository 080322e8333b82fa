"""POST /transcribe: a recording in, what is said in it out."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.background import ACCEPTED, Accepted, jobs_of, owner_of, wants_job
from api.bodies import Body
from api.docs_page import schema_of
from api.native.transcribing import TranscribeCall, check_not_empty
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.uploads import UploadFolder, claimed_bytes, received_files
from application.stored_files import StoredFiles
from domain.access import Scope
from domain.errors import DatabaseUnavailable, IngleError

FILE_FIELDS = ("file", "audio_file", "audio")


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/transcribe",
        summary="Write down what is said in a recording",
        openapi_extra=takes_recordings(TranscribeOptions),
        responses=ACCEPTED,
    )
    @needs(Scope.INFER)
    async def transcribe(request: Request) -> Response:
        files = jobs_of(services, request).files if wants_job(request) else None
        if files is not None:
            await files.check_room(claimed_bytes(request))
        async with AsyncExitStack() as stack:
            received = await stack.enter_async_context(
                received_files(
                    request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS, media=is_recording
                )
            )
            options = options_of(TranscribeOptions, form=received.fields, query=request.query_params.multi_items())
            call = TranscribeCall(services, request, options)
            [upload] = received.files
            check_not_empty(upload.size)
            if files is not None:
                call.check_background()
                return (await _submitted(call, request, files, upload.path)).response()
            if not options.stream:
                return await call.answer(nullcontext(upload.path))
            # From here on the file belongs to the stream, which ends after this function.
            return await call.stream(_held(stack.pop_all(), upload.path))

    return router


async def _submitted(call: TranscribeCall, request: Request, files: StoredFiles, path: Path) -> Accepted:
    """A job that hears the upload at `path`, or the one that an earlier request of the same key had made."""
    keyed = "idempotency-key" in request.headers
    heard = {"sha256": await asyncio.to_thread(_sha256_of, path)} if keyed else None
    file = await files.keep(path, owner_of(request))
    try:
        accepted = await call.submit("transcribe", {"file_path": file.token}, heard=heard)
    except DatabaseUnavailable:
        # The job may be there; the file goes where it is not.
        raise
    except IngleError:
        await files.discard(file)
        raise
    if accepted.replayed:
        await files.discard(file)
    return accepted


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@asynccontextmanager
async def _held(stack: AsyncExitStack, path: Path) -> AsyncGenerator[Path, None]:
    """`path`, which exists until `stack` is closed: at the end of the block."""
    async with stack:
        yield path


def is_recording(media_type: str) -> bool:
    """Whether a bare body of that type may be a recording; its bytes decide later."""
    return media_type.startswith(("audio/", "video/")) or media_type == "application/octet-stream"


def takes_recordings(kind: type[Body], *, name: str = "file", several: bool = False) -> dict[str, Any]:
    """How a route that takes uploads under `name` describes itself."""
    schema = schema_of(kind)
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    shown = {"type": "array", "items": file} if several else file
    form = {**schema, "properties": {name: shown, **schema["properties"]}, "required": [name]}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if not several:
        content["application/octet-stream"] = {"schema": file}
    return {"requestBody": {"required": True, "content": content}}
