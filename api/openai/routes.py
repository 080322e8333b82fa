"""Every route of this dialect."""

from fastapi import APIRouter

from api.openai import chat, completions, embeddings, models, tokens
from api.services import Services


def routes(services: Services) -> APIRouter:
    """The routes of all pages."""
    router = APIRouter()
    for page in (chat, completions, embeddings, models, tokens):
        router.include_router(page.routes(services))
    return router
