"""Answers in one piece or as a stream, as this dialect sends them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import caller_of
from api.error_shapes import openai_error, public
from api.openai.envelope import Json
from api.openai.sampling_body import SamplingBody
from api.sampling import keep_alive_of
from api.services import Services
from api.streaming import SSE, Record, streamed, unless_client_leaves
from application.fit_prompt import FitPrompt, PromptCut
from application.generate_text import GenerationStarted
from domain.generation import GenerationRequest, TextChunk
from domain.prompt import Chat

# Tokens at the beginning of a prompt that stay when it is cut.
_KEPT_TOKENS = 4


class Answer(Protocol):
    """One request that is ready to be worked on, in one of two ways; closing or cancelling either ends the work."""

    async def whole(self) -> Json:
        """The finished answer."""
        ...

    def chunks(self) -> AsyncGenerator[Record, None]:
        """Its pieces."""
        ...


class Work:
    """What a body asks of its model, prompt by prompt; `headers` tell what became of the prompts."""

    def __init__(self, services: Services, request: Request, body: SamplingBody) -> None:
        self._services = services
        self._body = body
        self._keep_alive = keep_alive_of(services.limits, caller_of(request.scope), body.keep_alive)
        self._is_cut = False

    def events(self, request: GenerationRequest) -> AsyncGenerator[GenerationStarted | TextChunk, None]:
        """As GenerateText.stream; with `truncate` a prompt that does not fit loses what is oldest in it."""
        if self._body.truncate:
            return self._fitted(request)
        return self._services.generate.stream(self._body.model, request, keep_alive=self._keep_alive)

    async def _fitted(self, request: GenerationRequest) -> AsyncGenerator[GenerationStarted | TextChunk, None]:
        fitted = FitPrompt(self._services.pool, self._services.generate).stream(
            self._body.model,
            request,
            by_messages=isinstance(request.prompt, Chat),
            num_keep=_KEPT_TOKENS,
            keep_alive=self._keep_alive,
        )
        async with aclosing(fitted) as events:
            async for event in events:
                if isinstance(event, PromptCut):
                    self._is_cut = True
                else:
                    yield event

    def headers(self) -> Mapping[str, str]:
        """Nothing is cut in silence."""
        return {"x-truncated": "true"} if self._is_cut else {}


async def answered(services: Services, request: Request, work: Work, answer: Answer, *, as_stream: bool) -> Response:
    """The response; the work ends when the client leaves."""
    if not as_stream:
        content = await unless_client_leaves(request.receive, answer.whole())
        return json_answer(content, headers=work.headers())
    return await streamed(
        request,
        answer.chunks(),
        SSE,
        ping_seconds=services.limits.ping_seconds,
        stall_seconds=services.limits.stall_seconds,
        headers=work.headers,
        error_record=lambda error, _: openai_error(public(error)),
    )
