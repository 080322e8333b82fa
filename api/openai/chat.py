"""POST /v1/chat/completions: a chat goes in, the next message comes out, whole or as a stream of chunks."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.bodies import checked
from api.docs_page import describes
from api.error_shapes import openai_error, public
from api.openai.chat_body import ChatBody, generation_request, in_this_dialect, refuse_what_is_not_offered
from api.openai.completions import Choice, Envelope, Json, fingerprint, logprobs_of, new_id
from api.openai.reading import given, read_json
from api.sampling import keep_alive_of
from api.services import Services
from api.streaming import SSE, Record, streamed, unless_client_leaves
from application.generate_text import GenerationStarted
from application.residency import spec_for, within_context
from domain.errors import GenerationFailed, InvalidRequest, UnsupportedParameter
from domain.generation import GenerationRequest, TextChunk, Usage
from domain.model import Task


def routes(services: Services) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/chat/completions", summary="Write the next message of a chat", openapi_extra=describes(ChatBody))
    async def chat_completions(request: Request) -> Response:
        raw = given(await read_json(request))
        body = await checked(ChatBody, raw)
        refuse_what_is_not_offered(raw)
        refuse_reasoning(services, body.model, raw.get("reasoning_effort"))
        chat = ChatCompletion(services, body, generation_request(request, body, services.limits))
        if not body.stream:
            return json_answer(await unless_client_leaves(request.receive, chat.whole()))
        return await streamed(
            request,
            chat.chunks(),
            SSE,
            ping_seconds=services.limits.ping_seconds,
            stall_seconds=services.limits.stall_seconds,
            error_record=lambda error, _: openai_error(public(error)),
        )

    return router


def refuse_reasoning(services: Services, name: str, effort: object) -> None:
    """Raise UnsupportedParameter where `reasoning_effort` would change the answer: on models that think."""
    if effort is not None and "thinking" in spec_for(services.pool, name, Task.TEXT).capabilities:
        raise UnsupportedParameter("reasoning_effort is not offered yet: leave it out", field="reasoning_effort")


class ChatCompletion:
    """One request: whom it asks, for what, and how its answer looks."""

    def __init__(self, services: Services, body: ChatBody, request: GenerationRequest) -> None:
        self._services = services
        self._body = body
        self._request = request
        self._keep_alive = keep_alive_of(body.keep_alive)

    async def whole(self) -> Json:
        """The finished answer."""
        choices = [Choice() for _ in range(self._request.n)]
        envelope: Envelope | None = None
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, GenerationStarted):
                    envelope = self._envelope(event)
                else:
                    choices[event.index].add(event)
        if envelope is None or any(choice.finish is None for choice in choices):
            raise GenerationFailed("the model's stream ended without saying why")
        return envelope.whole(choices, with_logprobs=self._request.sampling.logprobs is not None)

    async def chunks(self) -> AsyncGenerator[Record, None]:
        """For each choice its role, its pieces and its finish; last, if it is wanted, the usage of all of them."""
        envelope: Envelope | None = None
        usages: dict[int, Usage] = {}
        begun: set[int] = set()
        no_usage: Json = {"usage": None} if self._body.include_usage else {}
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, GenerationStarted):
                    envelope = self._envelope(event)
                    continue
                assert envelope is not None
                if event.index not in begun:
                    begun.add(event.index)
                    yield envelope.chunk(event.index, {"role": "assistant", "content": ""}, no_usage)
                if event.text or event.logprobs:
                    logprobs = logprobs_of(event.logprobs) if self._request.sampling.logprobs is not None else None
                    yield envelope.chunk(event.index, {"content": event.text}, no_usage, logprobs=logprobs)
                if event.finish is not None:
                    usages[event.index] = event.finish.usage
                    yield envelope.chunk(event.index, {}, no_usage, finish_reason=event.finish.reason.value)
        if envelope is None or len(usages) != self._request.n:
            raise GenerationFailed("the model's stream ended without saying why")
        if self._body.include_usage:
            yield envelope.usage_chunk([usages[index] for index in sorted(usages)])

    async def _events(self) -> AsyncGenerator[GenerationStarted | TextChunk, None]:
        generate, name, request = self._services.generate, self._body.model, self._request
        try:
            if self._body.options is not None and self._body.options.num_ctx:
                request = await within_context(generate, name, request, self._body.options.num_ctx)
            async with aclosing(generate.stream(name, request, keep_alive=self._keep_alive)) as events:
                async for event in events:
                    yield event
        except InvalidRequest as error:
            raise in_this_dialect(error, self._body) from None

    def _envelope(self, started: GenerationStarted) -> Envelope:
        services = self._services
        return Envelope(
            new_id(), int(services.clock.now()), self._body.model, fingerprint(services.version, started.model)
        )
