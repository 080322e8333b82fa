"""POST /api/embed and /api/embeddings: vectors of texts."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.bodies import Body, checked, read_object
from api.docs_page import describes
from api.errors import InvalidFields, Problem
from api.ollama.answering import answer, keep_alive_in
from api.ollama.capabilities import spec_to_embed
from api.options import parse_options
from api.request_ids import request_id_of
from api.services import Services
from api.streaming import unless_client_leaves
from api.times import nanoseconds
from application.embed_texts import EmbeddedTexts
from application.residency import bring_in, let_go
from domain.access import Scope
from domain.errors import ContextLengthExceeded, InvalidRequest
from domain.model import Task

MAX_INPUTS = 2048


class EmbedBody(Body):
    """Texts, and how their vectors are wanted."""

    model: str = ""
    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=0)
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class EmbeddingsBody(Body):
    """One text, in the old form of the route."""

    model: str = ""
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["ollama"])

    @router.post("/api/embed", summary="Vectors of texts", openapi_extra=describes(EmbedBody))
    @needs(Scope.INFER)
    async def embed(request: Request) -> Response:
        body = await checked(EmbedBody, await read_object(request))
        texts = texts_of(body.input)
        parse_options(body.options)
        task = spec_to_embed(services, body.model).task
        keep_alive = keep_alive_in(services, request, body.keep_alive)
        if not texts:
            await unless_client_leaves(request.receive, _load(services, body.model, task, keep_alive))
            return answer({"model": body.model, "embeddings": []})
        asking = Embedding(services, request_id_of(request.scope), body.model, keep_alive)
        wanted = body.dimensions or None
        done = await unless_client_leaves(
            request.receive, asking.embed(texts, truncate=body.truncate is not False, dimensions=wanted)
        )
        content = {
            "model": body.model,
            "embeddings": [vector.tolist() for vector in done.embeddings.vectors],
            "total_duration": nanoseconds(done.load_seconds + done.embed_seconds),
            "load_duration": nanoseconds(done.load_seconds),
            "prompt_eval_count": done.embeddings.total_tokens,
        }
        return answer(content, asking.headers())

    @router.post(
        "/api/embeddings", summary="The vector of a text, not normalised", openapi_extra=describes(EmbeddingsBody)
    )
    @needs(Scope.INFER)
    async def embeddings(request: Request) -> Response:
        body = await checked(EmbeddingsBody, await read_object(request))
        parse_options(body.options)
        task = spec_to_embed(services, body.model).task
        keep_alive = keep_alive_in(services, request, body.keep_alive)
        if not body.prompt:
            await unless_client_leaves(request.receive, _load(services, body.model, task, keep_alive))
            return answer({"embedding": []})
        asking = Embedding(services, request_id_of(request.scope), body.model, keep_alive)
        done = await unless_client_leaves(request.receive, asking.embed([body.prompt], truncate=True, normalize=False))
        return answer({"embedding": done.embeddings.vectors[0].tolist()}, asking.headers())

    return router


def texts_of(given: Any) -> list[str]:
    """The field `input`: a text, or a list of them; an empty one is nothing to embed."""
    texts = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("invalid input type", field="input")
    if len(texts) > MAX_INPUTS:
        raise InvalidFields([Problem(("input",), f"must hold at most {MAX_INPUTS} texts")])
    return [] if texts == [""] else texts


async def _load(services: Services, name: str, task: Task, keep_alive: float | None) -> None:
    """Nothing to embed: bring the model in, or with `keep_alive` 0 let it go."""
    if keep_alive == 0:
        await let_go(services.pool, name, task)
    else:
        await bring_in(services.pool, name, task, keep_alive=keep_alive)


class Embedding:
    """One request for vectors, which notes whether a text had to be cut."""

    def __init__(self, services: Services, request_id: str, name: str, keep_alive: float | None) -> None:
        self._services = services
        self._request_id = request_id
        self._name = name
        self._keep_alive = keep_alive
        self._is_cut = False

    def headers(self) -> dict[str, str]:
        """What the response says beside its body."""
        return {"x-truncated": "true"} if self._is_cut else {}

    async def embed(
        self, texts: list[str], *, truncate: bool, dimensions: int | None = None, normalize: bool = True
    ) -> EmbeddedTexts:
        """The vectors. Texts that are too long are cut where `truncate` allows it, and only there."""
        try:
            return await self._embed(texts, dimensions, normalize, truncate=False)
        except ContextLengthExceeded:
            if not truncate:
                raise
            self._is_cut = True
            return await self._embed(texts, dimensions, normalize, truncate=True)

    async def _embed(
        self, texts: list[str], dimensions: int | None, normalize: bool, *, truncate: bool
    ) -> EmbeddedTexts:
        return await self._services.embed.embed(
            self._name,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            normalize=normalize,
            keep_alive=self._keep_alive,
            request_id=self._request_id,
        )
