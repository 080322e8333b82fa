"""The application: routes, and around them the layers that every request passes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from api import docs_page, not_offered
from api.auth import Gate
from api.body_guard import BodyGuard
from api.cancelling import Cancellable, Cancellations
from api.failures import Failures, on_http_exception
from api.guards import AllowedOrigins, Cors, HostGuard, OriginGuard
from api.jobs import routes as job_routes
from api.native import (
    asr,
    detect_language,
    file_upload,
    generate,
    memory,
    models,
    providers,
    queue,
    system,
    transcribe,
    transcribe_batch,
    transcribe_url,
)
from api.ollama import routes as ollama_routes
from api.openai import routes as openai_routes
from api.openai.processing_time import ProcessingTime
from api.request_ids import RequestIds
from api.services import Services
from api.uploads import FRAME_BYTES, UploadFolder

UPLOAD_PATHS = (
    "/transcribe",
    "/transcribe/batch",
    "/detect-language",
    "/asr",
    *file_upload.PATHS,
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)


def create_app(services: Services) -> FastAPI:
    """Everything that is served over HTTP, with `services` behind it."""
    folder = UploadFolder(services.uploads_dir)
    cancellations = Cancellations()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        await asyncio.to_thread(folder.open)
        try:
            yield
        finally:
            folder.close()

    app = FastAPI(
        title="Ingle",
        version=services.version,
        description="Text, speech and embedding models in one process.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        # Before every route, those among them that are added one day and say nothing of who may use them.
        dependencies=[Depends(Gate(services.keys, cancellations))],
        middleware=_layers(services, cancellations),
        exception_handlers={HTTPException: on_http_exception},
    )
    for router in (
        system.routes(services),
        generate.routes(services),
        models.routes(services),
        memory.routes(services),
        providers.routes(services),
        transcribe.routes(services, folder),
        transcribe_url.routes(services, folder),
        transcribe_batch.routes(services, folder),
        detect_language.routes(services, folder),
        asr.routes(services, folder),
        file_upload.routes(services, folder),
        queue.routes(services, cancellations),
        openai_routes.routes(services, folder),
        ollama_routes.routes(services),
        *([job_routes.routes(services.jobs, services.limits)] if services.jobs else ()),
        not_offered.routes(),
    ):
        app.include_router(router)
    if services.exposure.docs != "off":
        app.include_router(docs_page.routes(app, anybody=services.exposure.docs == "public"))
    return app


def _layers(services: Services, cancellations: Cancellations) -> list[Middleware]:
    """Outermost first. What is inside Failures may raise; what is outside sees every response."""
    limits, exposure = services.limits, services.exposure
    origins = AllowedOrigins(exposure.origins)
    larger = dict.fromkeys(UPLOAD_PATHS, limits.upload_bytes + FRAME_BYTES)
    if services.jobs is not None:
        larger |= job_routes.body_limits(services.jobs)
    layers = [
        Middleware(RequestIds, server=f"{services.name}/{services.version}"),
        Middleware(Cors, origins=origins),
        Middleware(ProcessingTime),
        Middleware(Failures),
        Middleware(Cancellable, cancellations=cancellations),
        Middleware(BodyGuard, limit=limits.body_bytes, limits=larger),
    ]
    if exposure.guard_hosts:
        layers.append(Middleware(HostGuard, allowed_hosts=exposure.allowed_hosts))
    return [*layers, Middleware(OriginGuard, origins=origins)]
