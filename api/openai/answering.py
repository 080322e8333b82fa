"""Answers in one piece or as a stream, as this dialect sends them."""

from collections.abc import AsyncGenerator
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.error_shapes import openai_error, public
from api.openai.envelope import Json
from api.services import Services
from api.streaming import SSE, Record, streamed, unless_client_leaves


class Answer(Protocol):
    """One request that is ready to be worked on, in one of two ways; closing or cancelling either ends the work."""

    async def whole(self) -> Json:
        """The finished answer."""
        ...

    def chunks(self) -> AsyncGenerator[Record, None]:
        """Its pieces."""
        ...


async def answered(services: Services, request: Request, answer: Answer, *, as_stream: bool) -> Response:
    """The response; the work ends when the client leaves."""
    if not as_stream:
        return json_answer(await unless_client_leaves(request.receive, answer.whole()))
    return await streamed(
        request,
        answer.chunks(),
        SSE,
        ping_seconds=services.limits.ping_seconds,
        stall_seconds=services.limits.stall_seconds,
        error_record=lambda error, _: openai_error(public(error)),
    )
