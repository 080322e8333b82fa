"""Every route of this dialect."""

from fastapi import APIRouter

from api.openai import audio, chat, completions, embeddings, models, tokens
from api.services import Services
from api.uploads import UploadFolder


def routes(services: Services, folder: UploadFolder) -> APIRouter:
    """The routes of all pages."""
    router = APIRouter()
    for page in (chat, completions, embeddings, models, tokens):
        router.include_router(page.routes(services))
    router.include_router(audio.routes(services, folder))
    return router
