"""The analysis form of POST /generate: a query, passages, one answer."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, memory_figures, one_of
from api.auth import caller_of
from api.background import refuse_stream
from api.bodies import Body, checked
from api.native.figures import queue_headers, timings_of, usage_of
from api.request_ids import request_id_of
from api.sampling import (
    client_of,
    deadline_of,
    in_body,
    keep_alive_of,
    new_tokens,
    refuse_unless_neutral,
    seed_of,
    stop_strings,
)
from api.services import Services
from api.streaming import unless_client_leaves
from api.times import rfc3339
from application.answer_query import Answer, Question
from application.residency import spec_for
from domain.errors import InvalidRequest, UnsupportedParameter
from domain.generation import MAX_STOP_STRINGS, SamplingParams
from domain.model import Task

DEFAULT_SECONDS = 30.0
DEFAULT_MAX_LENGTH = 512

NOT_OFFERED: Mapping[str, tuple[Any, ...]] = {
    "format": ("",),
    "images": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "max_tokens": (),
    "options": ({},),
    "priority": (0,),
    "raw": (False,),
    "shift": (False,),
    "suffix": ("",),
    "template": ("",),
    "think": (False, "none"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}


class AnalysisBody(Body):
    """A query, and the passages that it is about."""

    query: str = Field(min_length=1)
    context: list[str] | None = Field(None, max_length=64)
    max_length: int | None = Field(None, ge=1, le=2048)
    temperature: float | None = None
    model_id: str | None = None
    model: str | None = None
    use_async: bool | None = None
    system: str | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    top_p: float | None = None
    top_k: int | None = None
    keep_alive: float | str | None = None
    timeout: float | None = None
    truncate: bool | None = None
    stream: bool | None = None


async def analyse(services: Services, request: Request, raw: Mapping[str, Any]) -> Response:
    """Answer a body of the analysis form."""
    body = await checked(AnalysisBody, raw)
    if body.stream:
        raise UnsupportedParameter("stream: this form answers in one piece", field="stream")
    refuse_unless_neutral(raw, NOT_OFFERED)
    name = one_of(body.model_id, body.model, services.defaults.analysis_model, names=("model_id", "model"))
    question = question_of(services, request, body)
    began = services.clock.monotonic()
    answer = await unless_client_leaves(request.receive, services.answer.answer(name, question))
    seconds = services.clock.monotonic() - began
    headers = queue_headers(answer.generation.started, answer.generation.finish.timings)
    if answer.passages_used < len(question.passages):
        headers["x-truncated"] = "true"
    content = analysis_answer(services, name, answer, seconds)
    return json_answer({**content, "request_id": question.request_id}, headers=headers)


async def analysis_model(services: Services, request: Request, raw: Mapping[str, Any]) -> str:
    """The model that a body of this form names. Raises what `analyse` would before the model has it."""
    body = await checked(AnalysisBody, raw)
    refuse_stream(body.stream)
    refuse_unless_neutral(raw, NOT_OFFERED)
    name = one_of(body.model_id, body.model, services.defaults.analysis_model, names=("model_id", "model"))
    spec_for(services.pool, name, Task.TEXT)
    question_of(services, request, body)
    return name


def question_of(services: Services, request: Request, body: AnalysisBody) -> Question:
    """The body as the domain has it."""
    limits, defaults = services.limits, services.defaults
    try:
        sampling = SamplingParams(
            temperature=defaults.analysis_temperature if body.temperature is None else body.temperature,
            top_k=0 if body.top_k is None else body.top_k,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=seed_of(body.seed),
            max_tokens=new_tokens(body.max_length or DEFAULT_MAX_LENGTH, limits.new_tokens),
            stop=stop_strings(body.stop),
        )
    except InvalidRequest as error:
        raise in_body(error, {"max_tokens": "max_length"}) from None
    return Question(
        body.query,
        tuple(body.context or ()),
        system=body.system,
        sampling=sampling,
        truncate=body.truncate or False,
        timeout_seconds=deadline_of(request, body.timeout, limits.generation_seconds or DEFAULT_SECONDS),
        keep_alive=keep_alive_of(services.limits, caller_of(request.scope), body.keep_alive),
        request_id=request_id_of(request.scope),
        client=client_of(request),
    )


def analysis_answer(services: Services, name: str, answer: Answer, seconds: float) -> dict[str, Any]:
    """The body of an answer; `name` is the model that was asked for."""
    generation = answer.generation
    return {
        "success": True,
        "result": generation.text,
        "processing_time": round(seconds, 3),
        "timestamp": rfc3339(services.clock.now()),
        "model_id": name,
        "resolved_model": generation.started.model.id,
        "error": None,
        "memory_usage": memory_figures(services),
        "finish_reason": generation.finish.reason.value,
        "context_used": answer.passages_used,
        "usage": usage_of(generation.finish.usage),
        "timings": timings_of(generation.finish),
    }
