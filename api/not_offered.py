"""What the specification names and this version does not have yet: 501, in the shape of the path's dialect."""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter
from starlette.responses import Response

from api.auth import needs, public
from domain.access import Scope
from domain.errors import NotOffered

EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")

_NATIVE = {
    "/rerank": ("POST",),
    "/v2/rerank": ("POST",),
    "/metrics": ("GET",),
    "/ui": ("GET", "HEAD"),
}

_FILES = {
    "/file/query": ("POST",),
    "/files/ask": ("POST",),
    "/file/search/session/{session_id}": ("DELETE",),
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
    **_OLLAMA,
    **_OPENAI,
}


_FILE_PATHS = ("/file", "/api/file", "/v1/files", "/v1/uploads", "/v1/vector_stores", "/v1/batches")


def routes() -> APIRouter:
    """A route for each of them, so that a wrong method is still 405 and a wrong path still 404."""
    router = APIRouter()
    for path, methods in NOT_OFFERED.items():
        router.add_api_route(path, _refusal(path), methods=list(methods), include_in_schema=False)
    return router


def _refusal(path: str) -> Callable[[], Awaitable[Response]]:
    """An endpoint that is opened by what will open the route when there is something behind it."""

    async def refuse() -> Response:
        raise NotOffered()

    return public(refuse) if path == "/ui" else needs(_scope_of(path))(refuse)


def _scope_of(path: str) -> Scope:
    if path.startswith(_FILE_PATHS):
        return Scope.FILES
    if path in _OLLAMA:
        return Scope.ADMIN
    return Scope.METRICS if path == "/metrics" else Scope.INFER
