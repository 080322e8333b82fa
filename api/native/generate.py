"""POST /generate: one path, two forms, told apart by the keys of the body and by nothing else."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.background import ACCEPTED, jobs_of, submit_job, wants_job
from api.bodies import read_object
from api.docs_page import schema_of
from api.errors import InvalidFields, Problem
from api.native.analysis import AnalysisBody, analyse, analysis_model
from api.native.completion import complete, completion_model
from api.native.completion_body import CompletionBody
from api.services import Services
from domain.access import Scope

_COMPLETION_KEYS = ("prompt", "messages", "model", "model_id")


def routes(services: Services) -> APIRouter:
    """The route of this page."""
    router = APIRouter(tags=["generate"])

    @router.post(
        "/generate",
        summary="Write text: answer a query from passages, or complete a prompt",
        openapi_extra=_DESCRIPTION,
        responses=ACCEPTED,
    )
    @needs(Scope.INFER)
    async def generate(request: Request) -> Response:
        body = await read_object(request)
        if wants_job(request):
            jobs_of(services, request)
            model_of = analysis_model if is_analysis(body) else completion_model
            model = await model_of(services, request, body)
            return (await submit_job(services, request, "generate", model, body)).response()
        if is_analysis(body):
            return await analyse(services, request, body)
        return await complete(services, request, body)

    return router


def is_analysis(body: Mapping[str, Any]) -> bool:
    """Which form a body has. Raises InvalidFields for one that has both or neither."""
    if "query" in body:
        mixed = [name for name in ("prompt", "messages") if name in body]
        if mixed:
            problem = "a body has either query (analysis) or prompt or messages (completion), not both"
            raise InvalidFields([Problem((name,), problem) for name in mixed])
        return True
    if not any(name in body for name in _COMPLETION_KEYS):
        raise InvalidFields([Problem((), "the body needs query (analysis), or prompt, messages or model (completion)")])
    return False


_DESCRIPTION = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [schema_of(AnalysisBody), schema_of(CompletionBody)]},
                "examples": {
                    "analysis": {"value": {"query": "Is this a threat?", "context": ["passage one", "passage two"]}},
                    "completion": {"value": {"prompt": "Translate to Portuguese: how are you?", "stream": False}},
                },
            }
        },
    }
}
