"""What the server says of itself, and what it does not offer."""

from fastapi import APIRouter
from starlette.responses import Response

from api.auth import needs
from api.ollama.answering import answer
from api.services import Services
from domain.access import Scope


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["ollama"])

    @router.api_route("/api/version", methods=["GET", "HEAD"], include_in_schema=False)
    @needs(Scope.INFER)
    async def version() -> Response:
        return answer({"version": services.ollama_api_version})

    @router.get("/api/status", summary="Whether there is a cloud behind this server: there is not")
    @needs(Scope.INFER)
    async def status() -> Response:
        return answer({"cloud": {"disabled": True, "source": "config"}})

    return router
