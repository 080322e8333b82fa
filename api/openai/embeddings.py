"""POST /v1/embeddings: texts or tokens go in, a vector of length 1 for each comes out."""

import asyncio
import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of, needs
from api.bodies import Body, checked
from api.docs_page import describes
from api.openai.completion_body import is_token_ids
from api.openai.reading import given, read_json, wrong
from api.request_ids import request_id_of
from api.sampling import in_body, keep_alive_of
from api.services import Services
from api.streaming import unless_client_leaves
from application.embed_texts import EmbeddedTexts
from domain.access import Scope
from domain.embedding import EmbeddingInput
from domain.errors import InvalidRequest

MAX_INPUTS = 2048
# From this many numbers on, an answer is written in a thread.
_OFF_LOOP_NUMBERS = 20_000


class EmbeddingBody(Body):
    """What to embed, and how the vectors are to be written."""

    model: str = Field(min_length=1)
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    keep_alive: Any = None


def routes(services: Services) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/embeddings", summary="Texts as vectors", openapi_extra=describes(EmbeddingBody))
    @needs(Scope.INFER)
    async def embeddings(request: Request) -> Response:
        body = await checked(EmbeddingBody, given(await read_json(request)))
        return await unless_client_leaves(request.receive, embed(services, request, body))

    return router


async def embed(services: Services, request: Request, body: EmbeddingBody) -> Response:
    """Answer `body`."""
    try:
        # Nothing is cut in silence: a text beyond the context is refused.
        done = await services.embed.embed(
            body.model,
            inputs_of(body.input),
            truncate=False,
            dimensions=body.dimensions,
            keep_alive=keep_alive_of(services.limits, caller_of(request.scope), body.keep_alive),
            request_id=request_id_of(request.scope),
        )
    except InvalidRequest as error:
        raise in_body(error, {"input": "input", "dimensions": "dimensions"}) from None
    if body.dimensions is not None and body.dimensions > done.dimensions:
        raise wrong("dimensions", f"must be at most {done.dimensions}, the length of this model's vectors")
    if len(done.embeddings.vectors) * done.dimensions < _OFF_LOOP_NUMBERS:
        return _answer(body, done)
    return await asyncio.to_thread(_answer, body, done)


def inputs_of(given: Any) -> Sequence[EmbeddingInput]:
    """The inputs that a field with one of four types holds."""
    match given:
        case str():
            return [given]
        case [_, *_] if is_token_ids(given):
            return [given]
        case list() if all(isinstance(item, str) for item in given) or all(is_token_ids(item) for item in given):
            if len(given) > MAX_INPUTS:
                raise wrong("input", f"must hold at most {MAX_INPUTS} inputs")
            return given
        case _:
            raise wrong("input", "must be a string, a list of strings, a list of token ids, or a list of such lists")


def _answer(body: EmbeddingBody, done: EmbeddedTexts) -> Response:
    write = _base64 if body.encoding_format == "base64" else _floats
    tokens = done.embeddings.total_tokens
    return json_answer(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": write(vector)}
                for index, vector in enumerate(done.embeddings.vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _floats(vector: "array[float]") -> list[float]:
    return vector.tolist()


def _base64(vector: "array[float]") -> str:
    """Little-endian 32-bit floats."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
