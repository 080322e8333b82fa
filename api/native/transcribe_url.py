"""POST /transcribe/url: the address of a recording in, what is said in it out."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.background import ACCEPTED, jobs_of, wants_job
from api.bodies import read_object
from api.docs_page import describes
from api.errors import InvalidFields, Problem
from api.native.transcribing import TranscribeCall, check_not_empty
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.uploads import UploadFolder
from domain.access import Scope


class UrlOptions(TranscribeOptions):
    """Where the recording lies, and how it is to be written down."""

    url: str = ""


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["speech"])

    @router.post(
        "/transcribe/url",
        summary="Write down what is said in a recording that lies on another server",
        openapi_extra=describes(UrlOptions, required=False, query=True),
        responses=ACCEPTED,
    )
    @needs(Scope.INFER)
    async def transcribe_url(request: Request) -> Response:
        body = await read_object(request, required=False)
        options = options_of(UrlOptions, query=request.query_params.multi_items(), body=body)
        if not options.url:
            raise InvalidFields([Problem(("url",), "is missing: name the recording's address")])
        call = TranscribeCall(services, request, options)
        if wants_job(request):
            jobs_of(services, request)
            call.check_background()
            await services.fetcher.check(options.url)
            return (await call.submit("transcribe_url", {"url": options.url})).response()
        return await call.respond(_fetched(services, folder, options.url))

    return router


@asynccontextmanager
async def _fetched(services: Services, folder: UploadFolder, url: str) -> AsyncGenerator[Path, None]:
    """What lies at `url`, as a file until the block ends. Its bytes alone decide what it is."""
    async with folder.lent_path() as path:
        check_not_empty(await services.fetcher.fetch(url, path, max_bytes=services.limits.upload_bytes))
        yield path
