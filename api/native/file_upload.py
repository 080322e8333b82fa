"""POST /file/upload, also under /api: a recording that a job is to hear, kept as it came."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.errors import InvalidFields, OwnerForbidden, Problem
from api.job_services import JobServices
from api.native.transcribing import check_not_empty
from api.services import Services
from api.times import rfc3339
from api.uploads import Received, UploadFolder, claimed_bytes, received_files, shown_name
from domain.access import Scope
from domain.errors import NotOffered
from domain.new_job import NAME
from domain.stored_file import ANYBODY

FILE_FIELDS = ("file",)
PATHS = ("/file/upload", "/api/file/upload")
PURPOSE = "transcribe"

_STRING = {"type": "string"}
_DESCRIPTION = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "filename": _STRING,
                        "owner_service": _STRING,
                    },
                }
            }
        },
    }
}


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["files"])

    @router.post(PATHS[0], summary="Keep a recording for a job", openapi_extra=_DESCRIPTION)
    @router.post(PATHS[1], include_in_schema=False)
    @needs(Scope.FILES)
    async def upload(request: Request) -> Response:
        jobs = _jobs(services)
        if "purpose" in request.query_params:
            # No need to read what is refused.
            _check_purpose(request.query_params["purpose"])
        await jobs.files.check_room(claimed_bytes(request))
        async with received_files(request, folder, limit=services.limits.upload_bytes, names=FILE_FIELDS) as received:
            _check_purpose(_said(request, received, "purpose"))
            [content] = received.files
            check_not_empty(content.size)
            file = await jobs.files.keep(content.path, _owner_of(request, received))
        return json_answer(
            {
                "file_path": file.token,
                "file_id": file.id,
                "session_id": None,
                "task_id": None,
                "filename": shown_name(_said(request, received, "filename") or content.name),
                "bytes": file.size,
                "purpose": PURPOSE,
                "status": "stored",
                "expires_at": rfc3339(file.expires_at / 1000),
            }
        )

    return router


def _jobs(services: Services) -> JobServices:
    if services.jobs is None:
        raise NotOffered("this server keeps no jobs, and so no files for them")
    return services.jobs


def _check_purpose(purpose: str | None) -> None:
    if purpose != PURPOSE:
        raise NotOffered(
            "questions over files are not offered yet: purpose=transcribe keeps a recording for a job of that type"
        )


def _owner_of(request: Request, received: Received) -> str:
    """Whose jobs may hear it. A key that is bound to several owners has to say which."""
    caller = caller_of(request.scope)
    owner = _said(request, received, "owner_service") or caller.sole_owner or ANYBODY
    if owner == ANYBODY and caller.bound_owners is not None:
        raise InvalidFields([Problem(("owner_service",), "name one of the owners that the key is bound to")])
    if owner != ANYBODY and not NAME.fullmatch(owner):
        raise InvalidFields([Problem(("owner_service",), "must be a name: letters, digits and _.:/@-, at most 128")])
    if not caller.acts_for(owner):
        raise OwnerForbidden
    return owner


def _said(request: Request, received: Received, name: str) -> str | None:
    """A field of the form or the query string; one name with two values is refused."""
    values = {value for field, value in (*received.fields, *request.query_params.multi_items()) if field == name}
    if len(values) > 1:
        raise InvalidFields([Problem((name,), "is given twice, with different values")])
    return values.pop() if values else None
