"""POST /v1/completions: prompts go in as they stand, and what follows on them comes out."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.bodies import checked
from api.docs_page import describes
from api.openai.answering import Work, answered
from api.openai.completion_answer import KIND, Choice
from api.openai.completion_body import Asked, CompletionBody, in_completion, requests_of
from api.openai.envelope import Envelope, Json, envelope, usage_of
from api.openai.merging import merged
from api.openai.reading import given, read_json
from api.sampling import refuse_unless_neutral
from api.services import Services
from api.streaming import Record
from application.generate_text import GenerationStarted
from application.residency import spec_for
from domain.access import Scope
from domain.errors import GenerationFailed, InvalidRequest
from domain.generation import GenerationRequest, TextChunk, Usage
from domain.model import ModelSpec, Task


def routes(services: Services) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["openai"])

    @router.post("/v1/completions", summary="Go on from a text", openapi_extra=describes(CompletionBody))
    @needs(Scope.INFER)
    async def completions(request: Request) -> Response:
        raw = given(await read_json(request))
        body = await checked(CompletionBody, raw)
        refuse_unless_neutral(raw, {"prompt_embeds": ()})
        spec = spec_for(services.pool, body.model, Task.TEXT)
        asked = requests_of(request, body, spec, services.limits)
        echoes = [await _echo(services, body, spec, one) for one in asked]
        work = Work(services, request, body)
        completion = Completion(services, body, [one.request for one in asked], echoes, work)
        return await answered(services, request, work, completion, as_stream=bool(body.stream))

    return router


async def _echo(services: Services, body: CompletionBody, spec: ModelSpec, asked: Asked) -> str:
    """What stands before the answers to a prompt."""
    if not body.echo:
        return ""
    if isinstance(asked.prompt, str):
        return asked.prompt
    try:
        tokenizer = await services.tokenizers.open(spec)
        return await tokenizer.decode(asked.prompt)
    except InvalidRequest as error:
        raise in_completion(error, body) from None


class Completion:
    """One request: whom it asks, for what, and how its answer looks."""

    def __init__(
        self,
        services: Services,
        body: CompletionBody,
        requests: Sequence[GenerationRequest],
        echoes: Sequence[str],
        work: Work,
    ) -> None:
        self._services = services
        self._body = body
        self._requests = requests
        self._work = work
        samples = requests[0].n
        self._choices = [
            [Choice(number * samples + sample, body.logprobs is not None, echo) for sample in range(samples)]
            for number, echo in enumerate(echoes)
        ]
        self._envelope: Envelope | None = None

    async def whole(self) -> Json:
        """The finished answer; of several answers to a prompt the best, as many as are wanted."""
        async with aclosing(self._pieces()) as pieces:
            async for number, chunk in pieces:
                self._choices[number][chunk.index].add(chunk)
        envelope = self._finished()
        shown = [choice for choices in self._choices for choice in self._best(choices)]
        return {
            **envelope.of(KIND),
            "choices": [choice.whole(index) for index, choice in enumerate(shown)],
            "usage": usage_of(self._usages()),
        }

    async def chunks(self) -> AsyncGenerator[Record, None]:
        """The pieces of every choice and its finish; last, if it is wanted, the usage of all of them."""
        no_usage: Json = {"usage": None} if self._body.include_usage else {}
        async with aclosing(self._pieces()) as pieces:
            async for number, chunk in pieces:
                assert self._envelope is not None
                header = self._envelope.of(KIND)
                for choice in self._choices[number][chunk.index].pieces(chunk):
                    yield {**header, "choices": [choice], **no_usage}
        header = self._finished().of(KIND)
        if self._body.include_usage:
            yield {**header, "choices": [], "usage": usage_of(self._usages())}

    def _best(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        if len(choices) == self._body.choices:
            return choices
        return sorted(choices, key=lambda choice: choice.mean_logprob, reverse=True)[: self._body.choices]

    def _usages(self) -> list[list[Usage]]:
        return [[choice.finish.usage for choice in choices if choice.finish] for choices in self._choices]

    def _finished(self) -> Envelope:
        if self._envelope is None or any(choice.finish is None for choices in self._choices for choice in choices):
            raise GenerationFailed("the model's stream ended without saying why")
        return self._envelope

    async def _pieces(self) -> AsyncGenerator[tuple[int, TextChunk], None]:
        """What the model says to each prompt, by its number; the envelope is there before the first of it."""
        streams = [self._work.events(request) for request in self._requests]
        try:
            async with aclosing(merged(streams)) as events:
                async for number, event in events:
                    if not isinstance(event, GenerationStarted):
                        yield number, event
                    elif self._envelope is None:
                        self._envelope = envelope("cmpl", self._services, self._body.model, event.model)
        except InvalidRequest as error:
            raise in_completion(error, self._body) from None
