"""POST /transcribe/batch: up to 32 recordings in one request, which share batches of the model."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import needs
from api.background import refuse_background
from api.error_shapes import detail_of, public
from api.errors import statuses_of
from api.failures import log_failure
from api.native.transcribe import takes_recordings
from api.native.transcribing import TranscribeCall, check_not_empty
from api.request_ids import request_id_of
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.streaming import unless_client_leaves
from api.transcripts import content_of, json_body
from api.uploads import Upload, UploadFolder, received_files
from domain.access import Scope
from domain.errors import AudioRefused, IngleError, UnsupportedParameter

MAX_FILES = 32
FILE_FIELDS = ("files",)

Entry = dict[str, Any]


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/transcribe/batch",
        summary="Write down what is said in several recordings",
        openapi_extra=takes_recordings(TranscribeOptions, name=FILE_FIELDS[0], several=True),
    )
    @needs(Scope.INFER)
    async def transcribe_batch(request: Request) -> Response:
        refuse_background(request)
        async with received_files(
            request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS, max_files=MAX_FILES
        ) as received:
            options = options_of(TranscribeOptions, form=received.fields, query=request.query_params.multi_items())
            if options.stream:
                raise UnsupportedParameter("several recordings cannot be streamed: leave stream out", field="stream")
            call = TranscribeCall(services, request, options)
            began_at = services.clock.monotonic()
            entries = await unless_client_leaves(
                request.receive, _entries(call, received.files, request_id_of(request.scope))
            )
            seconds = services.clock.monotonic() - began_at
        failed = sum("error" in entry for entry in entries)
        return json_answer(
            {
                "total_files": len(entries),
                "succeeded": len(entries) - failed,
                "failed": failed,
                "total_processing_time": round(seconds, 3),
                "request_id": request_id_of(request.scope),
                "results": entries,
            }
        )

    return router


async def _entries(call: TranscribeCall, files: Sequence[Upload], request_id: str) -> list[Entry]:
    """What became of each file, in order; all are worked on at once.

    Raises what kept every one of them from being heard, if that was not the files themselves.
    """
    outcomes = await asyncio.gather(*(_outcome(call, file, request_id) for file in files))
    failures = [outcome for outcome in outcomes if isinstance(outcome, IngleError)]
    if len(failures) == len(files) and not any(isinstance(failure, AudioRefused) for failure in failures):
        raise failures[0]
    return [
        _failure(outcome, file) if isinstance(outcome, IngleError) else outcome
        for outcome, file in zip(outcomes, files, strict=True)
    ]


async def _outcome(call: TranscribeCall, file: Upload, request_id: str) -> Entry | IngleError:
    """The entry of one file, or why there is none: it must not keep the others from being heard."""
    try:
        check_not_empty(file.size)
        transcript = await call.hear(nullcontext(file.path))
    except Exception as error:
        log_failure(error, request_id)
        return public(error)
    content = await content_of(transcript, call.options, call.name, request_id)
    entry: Entry = {"filename": file.name}
    if isinstance(content, str):
        entry |= json_body(transcript, call.options, call.name, request_id)
        entry |= {"rendered": {"format": call.options.response_format, "content": content}}
    else:
        entry |= content
    del entry["request_id"]
    return entry


def _failure(error: IngleError, file: Upload) -> Entry:
    return {
        "filename": file.name,
        "error": detail_of(error),
        "code": error.code,
        "status": statuses_of(error).native,
    }
