"""The completion form of POST /generate: Ollama's records, in one answer or as a stream."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, one_of
from api.auth import caller_of
from api.background import refuse_stream
from api.bodies import checked
from api.native.completion_body import CompletionBody, completion_request
from api.native.figures import Arrival, queue_headers, timings_of, usage_of
from api.options import parse_options
from api.request_ids import request_id_of
from api.sampling import keep_alive_of
from api.services import Services
from api.streaming import framing_for, streamed, unless_client_leaves
from api.text_answer import TextAnswer, Truncation
from api.text_records import as_response, head
from application.generate_text import GenerationStarted
from application.render_prompt import render
from application.residency import bring_in, let_go, spec_for
from domain.generation import Finish, GenerationRequest, TextChunk
from domain.model import Model, Task


async def complete(services: Services, request: Request, raw: Mapping[str, Any]) -> Response:
    """Answer a body of the completion form."""
    body = await checked(CompletionBody, raw)
    name = one_of(body.model, body.model_id, services.defaults.model)
    keep_alive = keep_alive_of(services.limits, caller_of(request.scope), body.keep_alive)
    if body.asks_for_nothing:
        parse_options(body.options)
        return await load_or_unload(services, request, name, keep_alive)
    spec = spec_for(services.pool, name, Task.TEXT)
    options = parse_options(body.options, spec)
    wish = completion_request(request, spec, name, body, options, services.limits)
    if body.debug_render_only:
        text = await unless_client_leaves(request.receive, render(services.pool, name, wish.prompt))
        return json_answer({**head(services, name), "_debug_info": {"rendered_template": text, "image_count": 0}})
    notes = _Notes(services, wish)
    answer = TextAnswer(
        services,
        name,
        wish,
        as_response,
        with_context=True,
        truncation=Truncation(body.messages is not None, options.num_keep) if body.truncate else None,
        keep_alive=keep_alive,
        last=notes.of_the_end,
        watch=notes.watch,
    )
    if body.stream:
        return await streamed(
            request,
            answer.records(),
            framing_for(request),
            ping_seconds=services.limits.ping_seconds,
            stall_seconds=services.limits.stall_seconds,
            headers=lambda: {**notes.arrival.headers(), **answer.headers()},
        )
    content = await unless_client_leaves(request.receive, answer.whole())
    return json_answer(content, headers={**notes.headers, **answer.headers()})


async def completion_model(services: Services, request: Request, raw: Mapping[str, Any]) -> str:
    """The model that a body of this form names. Raises what `complete` would before the model has it."""
    body = await checked(CompletionBody, raw)
    refuse_stream(body.stream)
    name = one_of(body.model, body.model_id, services.defaults.model)
    keep_alive_of(services.limits, caller_of(request.scope), body.keep_alive)
    spec = spec_for(services.pool, name, Task.TEXT)
    options = parse_options(body.options, spec)
    if not body.asks_for_nothing:
        completion_request(request, spec, name, body, options, services.limits)
    return name


class _Notes:
    """What this API tells of a request beside Ollama's records."""

    def __init__(self, services: Services, request: GenerationRequest) -> None:
        self._services = services
        self._request = request
        self._started: GenerationStarted | None = None
        self.arrival = Arrival()
        self.headers: dict[str, str] = {}

    def watch(self, event: GenerationStarted | TextChunk) -> None:
        """Note when the model has the request and when it begins to write."""
        now = self._services.clock.monotonic()
        if isinstance(event, GenerationStarted):
            self._started = event
            self.arrival.admitted(event, now)
        else:
            self.arrival.first_text(now)

    def of_the_end(self, model: Model, finish: Finish) -> dict[str, Any]:
        """The further fields of the last record."""
        assert self._started is not None
        self.headers = queue_headers(self._started, finish.timings)
        return {
            "resolved_model": model.id,
            "usage": usage_of(finish.usage),
            "timings": timings_of(finish),
            "request_id": self._request.request_id,
        }


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
            **head(services, name),
            "resolved_model": services.pool.repository.find(name).id,
            **as_response(""),
            "done": True,
            "done_reason": reason,
            "request_id": request_id_of(request.scope),
        }
    )
