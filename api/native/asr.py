"""POST /asr: the form and the answers of whisper-asr-webservice."""

from contextlib import nullcontext
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import needs
from api.native.transcribe import takes_recordings
from api.native.transcribing import TranscribeCall, check_not_empty
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.transcripts import rendered, segment_body, text_answer, verbose_segment_body
from api.uploads import UploadFolder, received_files
from domain.access import Scope
from domain.errors import UnsupportedParameter
from domain.transcription import Transcript

FILE_FIELDS = ("audio_file",)
_FORMATS: dict[str, Literal["text", "vtt", "srt", "tsv", "verbose_json"]] = {
    "txt": "text",
    "vtt": "vtt",
    "srt": "srt",
    "tsv": "tsv",
    "json": "verbose_json",
}


class AsrOptions(TranscribeOptions):
    """The options of /transcribe, with `output` in the place of `response_format`; `encode` changes nothing here."""

    output: Annotated[Literal["txt", "vtt", "srt", "tsv", "json"], Field()] = "txt"


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/asr",
        summary="Write down what is said, as whisper-asr-webservice does",
        openapi_extra=takes_recordings(AsrOptions, name=FILE_FIELDS[0]),
    )
    @needs(Scope.INFER)
    async def asr(request: Request) -> Response:
        async with received_files(request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS) as received:
            asked = options_of(AsrOptions, form=received.fields, query=request.query_params.multi_items())
            if asked.stream:
                raise UnsupportedParameter("this route does not stream: use /transcribe", field="stream")
            options = asked.model_copy(update={"response_format": _FORMATS[asked.output]})
            call = TranscribeCall(services, request, options)
            [upload] = received.files
            check_not_empty(upload.size)
            transcript = await call.transcript(nullcontext(upload.path))
        headers = {
            "asr-engine": services.name,
            "content-disposition": f'attachment; filename="{quote(upload.name, safe=" ")}.{asked.output}"',
        }
        if asked.output == "json":
            return json_answer(_json(transcript, with_words=options.word_timestamps), headers=headers)
        return text_answer(transcript, await rendered(transcript, options), options, headers)

    return router


def _json(transcript: Transcript, *, with_words: bool) -> dict[str, object]:
    return {
        "text": transcript.text,
        "segments": [
            {**verbose_segment_body(segment), **segment_body(segment, with_words=with_words)}
            for segment in transcript.segments
        ],
        "language": transcript.language,
    }
