"""POST /tokenize and /detokenize, both also under /v1: texts as tokens and back, without the model's weights."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import needs
from api.bodies import Body, checked, read_object
from api.docs_page import describes
from api.openai.messages import messages_of
from api.openai.models import context_length_of
from api.openai.reading import given, read_json, wrong
from api.openai.tools import tools_of
from api.services import Services
from application.ports import Tokenizer
from domain.access import Scope
from domain.model import ModelSpec
from domain.preset import opened_by
from domain.prompt import Chat, RawText

Read = Callable[[Request], Awaitable[dict[str, Any]]]


class TokenizeBody(Body):
    """A text, or a chat as the model's template writes it. Two client families have names of their own."""

    model: str | None = Field(None, min_length=1)
    prompt: str | None = None
    content: str | None = None
    messages: list[Any] | None = None
    tools: list[Any] | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    return_token_strs: bool = False
    with_pieces: bool = False


class DetokenizeBody(Body):
    """Tokens."""

    model: str | None = Field(None, min_length=1)
    tokens: list[int]


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["openai"])
    for prefix, read in (("", read_object), ("/v1", read_json)):
        _add(router, services, prefix, read)
    return router


def _add(router: APIRouter, services: Services, prefix: str, read: Read) -> None:
    @router.post(f"{prefix}/tokenize", summary="A text as tokens", openapi_extra=describes(TokenizeBody))
    @needs(Scope.INFER)
    async def tokenize(request: Request) -> Response:
        return await tokens_answer(services, await checked(TokenizeBody, given(await read(request))))

    @router.post(f"{prefix}/detokenize", summary="Tokens as text", openapi_extra=describes(DetokenizeBody))
    @needs(Scope.INFER)
    async def detokenize(request: Request) -> Response:
        body = await checked(DetokenizeBody, given(await read(request)))
        _, tokenizer = await _open(services, body.model)
        text = await tokenizer.decode(body.tokens)
        # Two client families read one each.
        return json_answer({"prompt": text, "content": text})


async def tokens_answer(services: Services, body: TokenizeBody) -> Response:
    """The tokens of what `body` holds."""
    _check(body)
    spec, tokenizer = await _open(services, body.model)
    tokens = await _encode(body, spec, tokenizer)
    pieces = await tokenizer.pieces(tokens) if body.return_token_strs or body.with_pieces else ()
    return json_answer(
        {
            "tokens": _with_pieces(tokens, pieces) if body.with_pieces else list(tokens),
            "count": len(tokens),
            "max_model_len": context_length_of(services, spec),
            "token_strs": [piece.decode(errors="replace") for piece in pieces] if body.return_token_strs else None,
        }
    )


async def _open(services: Services, name: str | None) -> tuple[ModelSpec, Tokenizer]:
    spec = services.pool.repository.find(name or services.defaults.model)
    return spec, await services.tokenizers.open(spec)


async def _encode(body: TokenizeBody, spec: ModelSpec, tokenizer: Tokenizer) -> Sequence[int]:
    if body.messages is not None:
        chat = Chat(
            opened_by(spec.preset, messages_of(body.messages)) if body.messages else (),
            tools_of(body.tools or ()),
            add_generation_prompt=body.add_generation_prompt,
        )
        return await tokenizer.encode(chat)
    text = body.content if body.prompt is None else body.prompt
    special = body.add_special if body.add_special_tokens is None else body.add_special_tokens
    return await tokenizer.encode(RawText(text), add_special_tokens=special is not False) if text else ()


def _check(body: TokenizeBody) -> None:
    """Each thing is said once, under one of its names."""
    texts = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if not texts:
        raise wrong("prompt", "is missing: send prompt, content or messages")
    if len(texts) > 1:
        raise wrong(texts[1], f"does not go with {texts[0]}")
    if body.tools and body.messages is None:
        raise wrong("tools", "goes with messages")
    if None not in (body.add_special, body.add_special_tokens) and body.add_special != body.add_special_tokens:
        raise wrong("add_special", "is the same field as add_special_tokens: they have different values")


def _with_pieces(tokens: Sequence[int], pieces: Sequence[bytes]) -> list[dict[str, Any]]:
    """Each token with its text, or with its bytes where they are no whole characters."""
    return [{"id": token, "piece": _piece(piece)} for token, piece in zip(tokens, pieces, strict=True)]


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
