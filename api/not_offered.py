"""What the specification names and this version does not have yet: 501, in the shape of the path's dialect."""

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from domain.errors import NotOffered

EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")

_NATIVE = {
    "/rerank": ("POST",),
    "/v2/rerank": ("POST",),
    "/metrics": ("GET",),
    "/ui": ("GET", "HEAD"),
}

_FILES = {
    "/task/{id}": ("GET",),
    "/file/upload": ("POST",),
    "/file/query": ("POST",),
    "/files/ask": ("POST",),
    "/file/search/session/{session_id}": ("DELETE",),
}

_JOBS = {
    "/jobs/{id}/audio": ("GET",),
}

_OLLAMA = {
    "/api/push": ("POST",),
    "/api/blobs/{digest}": ("HEAD", "POST"),
}

_OPENAI = {
    "/v1/audio/speech": ("POST",),
    "/v1/responses": ("POST",),
    "/v1/responses/{rest:path}": ("GET", "POST", "DELETE"),
    "/v1/conversations": ("POST",),
    "/v1/conversations/{rest:path}": ("GET", "POST", "DELETE"),
    "/v1/files": ("GET", "POST"),
    "/v1/files/{rest:path}": ("GET", "DELETE"),
    "/v1/uploads": ("POST",),
    "/v1/uploads/{rest:path}": ("POST",),
    "/v1/vector_stores": ("GET", "POST"),
    "/v1/vector_stores/{rest:path}": ("GET", "POST", "DELETE"),
    "/v1/batches": ("GET", "POST"),
    "/v1/batches/{id}": ("GET",),
    "/v1/batches/{id}/cancel": ("POST",),
    "/v1/rerank": ("POST",),
    "/v1/systemone": ("POST",),
    "/v1/decisions": ("POST",),
    "/v1/messages": ("POST",),
    "/v1/messages/count_tokens": ("POST",),
    "/v1/moderations": ("POST",),
    "/v1/images/{rest:path}": EVERY_METHOD,
    "/v1/fine_tuning/{rest:path}": EVERY_METHOD,
    "/v1/realtime": EVERY_METHOD,
    "/v1/realtime/{rest:path}": EVERY_METHOD,
    "/v1/assistants": EVERY_METHOD,
    "/v1/assistants/{rest:path}": EVERY_METHOD,
    "/v1/threads": EVERY_METHOD,
    "/v1/threads/{rest:path}": EVERY_METHOD,
}

NOT_OFFERED: dict[str, Sequence[str]] = {
    **_NATIVE,
    **_FILES,
    **{f"/api{path}": methods for path, methods in _FILES.items()},
    **{f"/api/v1{path}": methods for path, methods in _JOBS.items()},
    **_OLLAMA,
    **_OPENAI,
}


def routes() -> APIRouter:
    """A route for each of them, so that a wrong method is still 405 and a wrong path still 404."""
    router = APIRouter()
    for path, methods in NOT_OFFERED.items():
        router.add_route(path, _refuse, methods=list(methods), include_in_schema=False)
    return router


async def _refuse(request: Request) -> Response:
    del request
    raise NotOffered()


def refuse_background(request: Request) -> None:
    """Raise NotOffered for `Prefer: respond-async`: there are no jobs yet."""
    preferences = ",".join(request.headers.getlist("prefer")).lower()
    if "respond-async" in {preference.split(";")[0].strip() for preference in preferences.split(",")}:
        raise NotOffered("Prefer: respond-async: this version has no jobs yet")
