"""Models: /load-model, /unload-model, /models, /models/{name}."""

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, one_of
from api.auth import needs
from api.bodies import Body, from_query, read_parameters, validate
from api.docs_page import describes, query_parameters
from api.error_shapes import detail_of
from api.errors import InvalidFields, Problem
from api.native.loading import load_body, load_records
from api.services import Services
from api.streaming import framing_for, streamed, unless_client_leaves
from api.times import rfc3339
from api.transcripts import caveat_body
from application.residents import Resident, ResidentState
from domain.access import Scope
from domain.errors import DeviceNotAvailable, IngleError
from domain.keep_alive import parse_keep_alive
from domain.model import DEVICE_PATTERN, LoadOptions, Model, ModelSpec, Task

MAX_ECHO = 64
# The names that Hugging Face has for what these models do.
PIPELINES = {
    Task.TEXT: "text-generation",
    Task.SPEECH: "automatic-speech-recognition",
    Task.EMBEDDING: "feature-extraction",
}


class LoadParameters(Body):
    """How a model is wanted in memory; everything has a default."""

    model_id: str | None = None
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    num_ctx: int | None = None
    keep_alive: float | str | None = None
    pin: bool | None = None
    stream: bool | None = None


class UnloadParameters(Body):
    """Which model goes; `all` means every idle one that is not pinned. `force` ends its work first."""

    model_id: str | None = None
    model: str | None = None
    force: bool | None = None


class ModelsFilter(Body):
    """Which models are listed."""

    loaded: bool | None = None
    kind: Literal["text", "speech", "embedding"] | None = None


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["models"])

    @router.post(
        "/load-model",
        summary="Bring a model into memory",
        openapi_extra=describes(LoadParameters, required=False, query=True),
    )
    @needs(Scope.ADMIN)
    async def load_model(request: Request) -> Response:
        return await load(services, request, await read_parameters(request, LoadParameters))

    @router.post(
        "/unload-model",
        summary="Take a model out of memory",
        openapi_extra=describes(UnloadParameters, required=False, query=True),
    )
    @needs(Scope.ADMIN)
    async def unload_model(request: Request) -> Response:
        wish = await read_parameters(request, UnloadParameters)
        name = one_of(wish.model, wish.model_id, "")
        if not name:
            raise InvalidFields([Problem(("model_id",), "name the model to unload, or all")])
        work = (
            unload_all(services, wish.force or False)
            if name == "all"
            else unload_one(services, name, wish.force or False)
        )
        return json_answer(await unless_client_leaves(request.receive, work))

    @router.get("/models", summary="What is installed", openapi_extra={"parameters": query_parameters(ModelsFilter)})
    @needs(Scope.INFER)
    async def models(request: Request) -> Response:
        wish = validate(ModelsFilter, from_query(request.query_params), strict=False)
        entries = [entry(services, spec) for spec in services.pool.repository.installed()]
        return json_answer(
            {
                "models": [
                    one
                    for one in entries
                    if wish.loaded in (None, one["is_loaded"]) and wish.kind in (None, one["kind"])
                ]
            }
        )

    @router.get(
        "/models/{name:path}",
        summary="One installed model",
        openapi_extra={"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]},
    )
    @needs(Scope.INFER)
    async def model(request: Request) -> Response:
        return json_answer(entry(services, services.pool.repository.find(request.path_params["name"])))

    return router


async def load(services: Services, request: Request, wish: LoadParameters) -> Response:
    """Load, in one answer or with progress."""
    name = one_of(wish.model, wish.model_id, services.defaults.analysis_model)
    options = load_options(services, wish)
    keep_alive = None if wish.keep_alive is None else parse_keep_alive(wish.keep_alive)
    if wish.stream:
        return await streamed(
            request,
            load_records(services, name, options, keep_alive=keep_alive, pin=wish.pin),
            framing_for(request),
            ping_seconds=services.limits.ping_seconds,
            stall_seconds=services.limits.stall_seconds,
        )
    model, is_new = await unless_client_leaves(
        request.receive, services.pool.load(name, options, keep_alive=keep_alive, pin=wish.pin)
    )
    return json_answer(load_body(services, name, model, is_new=is_new))


def load_options(services: Services, wish: LoadParameters) -> LoadOptions:
    """Raises DeviceNotAvailable, with the devices there are, for a device that exists on no machine."""
    device = (wish.device or "auto").lower()
    if not DEVICE_PATTERN.fullmatch(device):
        raise DeviceNotAvailable(device[:MAX_ECHO], ["auto", *services.probe.devices()])
    return LoadOptions(
        device,
        (wish.dtype or "auto").lower(),
        (wish.quantization or "auto").lower(),
        wish.num_ctx if wish.num_ctx is not None else 0,
    )


async def unload_one(services: Services, name: str, force: bool) -> dict[str, Any]:
    """The body of /unload-model for one model."""
    gone = await services.pool.unload(name, force=force)
    return {
        "success": gone.was_loaded,
        "status": "unloaded" if gone.was_loaded else "not_loaded",
        "model_id": name,
        "resolved_model": gone.model_id,
        "freed_bytes": gone.bytes_freed,
    }


async def unload_all(services: Services, force: bool) -> dict[str, Any]:
    """The body of /unload-model for `all`: what went, and what is in use and stayed."""
    gone = list(await services.pool.unload_idle())
    busy: list[str] = []
    for resident in services.pool.residents():
        if resident.state is ResidentState.UNLOADING:
            continue
        if force:
            gone.append(await services.pool.unload(resident.spec.id, force=True))
        elif resident.in_flight:
            busy.append(resident.spec.id)
    went = [one.model_id for one in gone if one.was_loaded]
    return {
        "success": bool(went),
        "status": "unloaded" if went else "not_loaded",
        "model_id": "all",
        "freed_bytes": sum(one.bytes_freed for one in gone),
        "models": went,
        "busy": busy,
    }


def entry(services: Services, spec: ModelSpec) -> dict[str, Any]:
    """One model as /models shows it: on disk, on its way, or in memory."""
    resident = next((one for one in services.pool.residents() if one.spec.id == spec.id), None)
    failure = services.pool.failure_of(spec.id) if resident is None else None
    model = resident.model if resident else None
    content: dict[str, Any] = {
        "model_id": spec.id,
        "name": spec.title,
        "kind": spec.task.value,
        "type": PIPELINES[spec.task],
        "capabilities": list(spec.capabilities),
        "device": model.device if model else None,
        "dtype": model.dtype if model else None,
        "quantization": model.quantization if model else None,
        "kernel": model.kernel if model else None,
        **(_speech_figures(model) if spec.task is Task.SPEECH else {}),
        "is_loaded": resident is not None and resident.state is ResidentState.LOADED,
        "state": _state(resident, failure),
        "size_bytes": spec.size_bytes,
        "context_length": model.context_length if model else spec.context_length,
        "in_flight": resident.in_flight if resident else 0,
        "pinned": resident.pinned if resident else False,
        "expires_at": rfc3339(resident.expires_at) if resident and resident.expires_at is not None else None,
    }
    if failure is not None:
        content["failure"] = {"code": failure.code, "detail": detail_of(failure)}
    return content


def _speech_figures(model: Model | None) -> dict[str, Any]:
    """How a recogniser computes, what was tried before that, and what all its answers say of it."""
    return {
        "compute_type": model.compute_type if model else None,
        "rungs": [asdict(rung) for rung in model.rungs] if model else [],
        "warnings": [caveat_body(caveat) for caveat in model.caveats] if model else [],
    }


def _state(resident: Resident | None, failure: IngleError | None) -> str:
    if resident is not None:
        return resident.state.value
    return "failed" if failure is not None else "installed"
