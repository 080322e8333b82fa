"""The completion form of POST /generate: Ollama's records, in one answer or as a stream."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, one_of
from api.bodies import checked
from api.native.completion_body import CompletionBody, generation_request, refuse_what_is_not_offered
from api.native.figures import Arrival, queue_headers, timings_of, usage_of
from api.native.options import parse_options
from api.request_ids import request_id_of
from api.sampling import keep_alive_of
from api.services import Services
from api.streaming import Record, framing_for, streamed, unless_client_leaves
from api.times import nanoseconds, rfc3339_nanoseconds
from application.generate_text import Generation, GenerationStarted
from application.residency import bring_in, let_go, within_context
from domain.generation import Finish, GenerationRequest
from domain.model import Model, Task
from domain.prompt import RawText


class Completion:
    """One request of this form: whom it asks, for what, and how its records look."""

    def __init__(
        self, services: Services, name: str, request: GenerationRequest, *, num_ctx: int, keep_alive: float | None
    ) -> None:
        self._services = services
        self._name = name
        self._request = request
        self._num_ctx = num_ctx
        self._keep_alive = keep_alive
        self.arrival = Arrival()

    async def whole(self) -> Generation:
        """The finished answer."""
        request = await self._within_context()
        return await self._services.generate.complete(self._name, request, keep_alive=self._keep_alive)

    async def records(self) -> AsyncGenerator[Record, None]:
        """A record for each piece of text, and a last one, without text, for the figures."""
        clock = self._services.clock
        request = await self._within_context()
        model: Model | None = None
        async with aclosing(self._services.generate.stream(self._name, request, keep_alive=self._keep_alive)) as events:
            async for event in events:
                if isinstance(event, GenerationStarted):
                    model = event.model
                    self.arrival.admitted(event, clock.monotonic())
                    continue
                self.arrival.first_text(clock.monotonic())
                if event.text:
                    yield self._record(event.text, done=False)
                if event.finish is not None and model is not None:
                    yield self.last_record("", model, event.finish)

    async def _within_context(self) -> GenerationRequest:
        if not self._num_ctx:
            return self._request
        return await within_context(self._services.generate, self._name, self._request, self._num_ctx)

    def _record(self, text: str, *, done: bool) -> dict[str, Any]:
        created_at = rfc3339_nanoseconds(self._services.clock.now())
        return {"model": self._name, "created_at": created_at, "response": text, "done": done}

    def last_record(self, text: str, model: Model, finish: Finish) -> dict[str, Any]:
        """The record that ends a stream, or the whole answer."""
        context = {} if isinstance(self._request.prompt, RawText) else {"context": list(finish.context)}
        timings = finish.timings
        return {
            **self._record(text, done=True),
            "resolved_model": model.id,
            "done_reason": finish.reason.value,
            **context,
            "total_duration": nanoseconds(timings.total),
            "load_duration": nanoseconds(timings.load),
            "prompt_eval_count": finish.usage.prompt_tokens,
            "prompt_eval_cached_count": finish.usage.cached_tokens,
            "prompt_eval_duration": nanoseconds(timings.prompt),
            "eval_count": finish.usage.completion_tokens,
            "eval_duration": nanoseconds(timings.decode),
            "usage": usage_of(finish.usage),
            "timings": timings_of(finish),
            "request_id": self._request.request_id,
        }


async def complete(services: Services, request: Request, raw: Mapping[str, Any]) -> Response:
    """Answer a body of the completion form."""
    body = await checked(CompletionBody, raw)
    refuse_what_is_not_offered(raw)
    options = parse_options(body.options)
    name = one_of(body.model, body.model_id, services.defaults.model)
    keep_alive = keep_alive_of(body.keep_alive)
    if body.prompt is None and body.messages is None:
        return await load_or_unload(services, request, name, keep_alive)
    completion = Completion(
        services,
        name,
        generation_request(request, body, options, services.limits),
        num_ctx=options.num_ctx,
        keep_alive=keep_alive,
    )
    if body.stream:
        return await streamed(
            request,
            completion.records(),
            framing_for(request),
            ping_seconds=services.limits.ping_seconds,
            stall_seconds=services.limits.stall_seconds,
            headers=completion.arrival.headers,
        )
    done = await unless_client_leaves(request.receive, completion.whole())
    content = completion.last_record(done.text, done.started.model, done.finish)
    return json_answer(content, headers=queue_headers(done.started, done.finish.timings))


async def load_or_unload(services: Services, request: Request, name: str, keep_alive: float | None) -> Response:
    """A model and nothing to write: bring it in, or with `keep_alive` 0 let it go."""
    if keep_alive == 0:
        reason = "unload"
        await unless_client_leaves(request.receive, let_go(services.pool, name, Task.TEXT))
    else:
        reason = "load"
        await unless_client_leaves(request.receive, bring_in(services.pool, name, Task.TEXT, keep_alive=keep_alive))
    return json_answer(
        {
            "model": name,
            "resolved_model": services.pool.repository.find(name).id,
            "created_at": rfc3339_nanoseconds(services.clock.now()),
            "response": "",
            "done": True,
            "done_reason": reason,
            "request_id": request_id_of(request.scope),
        }
    )
