"""POST /detect-language: a recording in, the language that is spoken in it out."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.native.transcribe import FILE_FIELDS, is_recording, takes_recordings
from api.native.transcribing import check_not_empty
from api.request_ids import request_id_of
from api.sampling import keep_alive_of
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import DetectOptions
from api.streaming import unless_client_leaves
from api.transcripts import english_name
from api.uploads import UploadFolder, received_files
from domain.access import Scope
from domain.transcription import DetectedLanguage


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/detect-language",
        summary="Tell which language is spoken in a recording",
        openapi_extra=takes_recordings(DetectOptions),
    )
    @needs(Scope.INFER)
    async def detect_language(request: Request) -> Response:
        async with received_files(
            request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS, media=is_recording
        ) as received:
            options = options_of(DetectOptions, form=received.fields, query=request.query_params.multi_items())
            wish = options.request(services, request)
            [upload] = received.files
            check_not_empty(upload.size)
            name = options.model_or_default(services)
            work = services.transcribe.detect_language(
                name,
                upload.path,
                wish,
                keep_alive=keep_alive_of(services.limits, caller_of(request.scope), options.keep_alive),
            )
            detection = await unless_client_leaves(request.receive, work)
        return json_answer({**_body(detection.heard), "model": name, "request_id": request_id_of(request.scope)})

    return router


def _body(heard: DetectedLanguage) -> dict[str, Any]:
    """Nulls and no candidates where nobody speaks."""
    language, probability = heard.candidates[0] if heard.candidates else (None, 0.0)
    return {
        "language": language,
        "language_code": language,
        "detected_language": english_name(language),
        "confidence": round(probability, 4),
        "candidates": [{"language": code, "probability": round(share, 4)} for code, share in heard.candidates],
        "windows": heard.windows,
        "duration": round(heard.duration, 2),
    }
