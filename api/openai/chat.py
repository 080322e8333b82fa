"""POST /v1/chat/completions: a chat goes in, the next message comes out, whole or as a stream of chunks."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.bodies import checked
from api.docs_page import describes
from api.openai import chat_answer
from api.openai.answering import Work, answered
from api.openai.chat_answer import Choice
from api.openai.chat_body import ChatBody, generation_request, in_chat, refuse_what_is_not_offered
from api.openai.envelope import Envelope, Json, envelope, usage_of
from api.openai.reading import given, read_json
from api.services import Services
from api.streaming import Record
from application.generate_text import GenerationStarted
from application.residency import spec_for
from domain.access import Scope
from domain.errors import GenerationFailed, InvalidRequest
from domain.generation import GenerationRequest, TextChunk
from domain.model import Task


def routes(services: Services) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/chat/completions", summary="Write the next message of a chat", openapi_extra=describes(ChatBody))
    @needs(Scope.INFER)
    async def chat_completions(request: Request) -> Response:
        raw = given(await read_json(request))
        body = await checked(ChatBody, raw)
        refuse_what_is_not_offered(raw)
        spec = spec_for(services.pool, body.model, Task.TEXT)
        work = Work(services, request, body)
        chat = ChatCompletion(services, body, generation_request(request, body, spec, services.limits), work)
        return await answered(services, request, work, chat, as_stream=bool(body.stream))

    return router


class ChatCompletion:
    """One request: whom it asks, for what, and how its answer looks."""

    def __init__(self, services: Services, body: ChatBody, request: GenerationRequest, work: Work) -> None:
        self._services = services
        self._body = body
        self._request = request
        self._work = work
        with_logprobs = request.sampling.logprobs is not None
        self._choices = [Choice(index, body.has_old_tools, with_logprobs) for index in range(request.n)]
        self._envelope: Envelope | None = None

    async def whole(self) -> Json:
        """The finished answer."""
        async with aclosing(self._pieces()) as chunks:
            async for chunk in chunks:
                self._choices[chunk.index].add(chunk)
        return chat_answer.whole(self._finished(), self._choices)

    async def chunks(self) -> AsyncGenerator[Record, None]:
        """For each choice its role, its pieces and its finish; last, if it is wanted, the usage of all of them."""
        no_usage: Json = {"usage": None} if self._body.include_usage else {}
        async with aclosing(self._pieces()) as chunks:
            async for chunk in chunks:
                assert self._envelope is not None
                header = self._envelope.of(chat_answer.CHUNK)
                for choice in self._choices[chunk.index].pieces(chunk):
                    yield {**header, "choices": [choice], **no_usage}
        header = self._finished().of(chat_answer.CHUNK)
        if self._body.include_usage:
            usages = [choice.finish.usage for choice in self._choices if choice.finish is not None]
            yield {**header, "choices": [], "usage": usage_of([usages])}

    def _finished(self) -> Envelope:
        if self._envelope is None or any(choice.finish is None for choice in self._choices):
            raise GenerationFailed("the model's stream ended without saying why")
        return self._envelope

    async def _pieces(self) -> AsyncGenerator[TextChunk, None]:
        """What the model says; the envelope is there before the first of it."""
        try:
            async with aclosing(self._work.events(self._request)) as events:
                async for event in events:
                    if isinstance(event, GenerationStarted):
                        self._envelope = envelope("chatcmpl", self._services, self._body.model, event.model)
                    else:
                        yield event
        except InvalidRequest as error:
            raise in_chat(error, self._body) from None
