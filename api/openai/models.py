"""GET /v1/models, GET and DELETE /v1/models/{model}: what may stand in the field `model` of a request."""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer
from api.auth import needs
from api.services import Services
from application.residents import ResidentState
from domain.access import Scope
from domain.errors import ModelNotFound
from domain.model import ModelSpec

# A model on its way out is as good as gone: the next request loads it anew. A suspended one is on its way back.
_STATUS = {
    ResidentState.LOADING: "loading",
    ResidentState.LOADED: "loaded",
    ResidentState.SUSPENDED: "loading",
    ResidentState.UNLOADING: "unloaded",
}
_NAMED = {"parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]}


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["openai"])

    @router.get("/v1/models", summary="Every installed model and every alias")
    @needs(Scope.INFER)
    async def models() -> Response:
        return json_answer({"object": "list", "data": entries(services)})

    @router.get("/v1/models/{model:path}", summary="One model", openapi_extra=_NAMED)
    @needs(Scope.INFER)
    async def model(request: Request) -> Response:
        name = request.path_params["model"]
        return json_answer(entry(services, name, services.pool.repository.find(name)))

    @router.delete("/v1/models/{model:path}", summary="Take a model off the disk", openapi_extra=_NAMED)
    @needs(Scope.ADMIN)
    async def delete(request: Request) -> Response:
        name = request.path_params["model"]
        await services.manage.delete(name)
        return json_answer({"id": name, "object": "model", "deleted": True})

    return router


def entries(services: Services) -> list[dict[str, Any]]:
    """The installed models, then the aliases of installed models; the catch-all alias is no name."""
    repository = services.pool.repository
    found = [entry(services, spec.id, spec) for spec in repository.installed()]
    for alias in services.aliases:
        with suppress(ModelNotFound):
            if alias != "*":
                found.append(entry(services, alias, repository.find(alias)))
    return found


def entry(services: Services, name: str, spec: ModelSpec) -> dict[str, Any]:
    """One model under the name that was asked for."""
    resident = next((one for one in services.pool.residents() if one.spec.id == spec.id), None)
    return {
        "id": name,
        "object": "model",
        "created": int(spec.modified_at),
        "owned_by": "ingle",
        "context_length": context_length_of(services, spec),
        "capabilities": list(spec.capabilities),
        "kind": spec.task.value,
        "status": "unloaded" if resident is None else _STATUS[resident.state],
    }


def context_length_of(services: Services, spec: ModelSpec) -> int:
    """The tokens that a model's context holds: as it is in memory, else as it could be."""
    loaded = (one.model for one in services.pool.residents() if one.spec.id == spec.id)
    model = next(loaded, None)
    return model.context_length if model else spec.context_length
