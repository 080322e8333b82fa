"""Every route of this dialect."""

from fastapi import APIRouter

from api.ollama import embedding, listing, managing, status, writing
from api.services import Services


def routes(services: Services) -> APIRouter:
    """All of them."""
    router = APIRouter()
    for page in (writing, embedding, listing, managing, status):
        router.include_router(page.routes(services))
    return router
