"""POST /transcribe: a recording in, what is said in it out."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import Body
from api.docs_page import schema_of
from api.native.transcribing import TranscribeCall, check_not_empty
from api.not_offered import refuse_background
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.uploads import UploadFolder, received_files

FILE_FIELDS = ("file", "audio_file", "audio")


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/transcribe",
        summary="Write down what is said in a recording",
        openapi_extra=takes_recordings(TranscribeOptions),
    )
    async def transcribe(request: Request) -> Response:
        refuse_background(request)
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
            if not options.stream:
                return await call.answer(nullcontext(upload.path))
            # From here on the file belongs to the stream, which ends after this function.
            return await call.stream(_held(stack.pop_all(), upload.path))

    return router


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
