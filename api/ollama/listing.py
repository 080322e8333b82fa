"""GET /api/tags and /api/ps, POST /api/show: what is installed, what is in memory, what a model is."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import caller_of, needs
from api.bodies import Body, checked, read_object
from api.docs_page import describes
from api.ollama.answering import answer, named
from api.ollama.details import KnownDetails, details_body, full_name
from api.ollama.modelfile import modelfile, parameters_text
from api.options import parse_options
from api.services import Services
from api.text_records import Json
from api.times import rfc3339_nanoseconds
from api.turns import message_record
from application.residents import Resident
from domain.access import Scope
from domain.library import ModelDetails
from domain.model import Model

# When a model that never expires is said to expire.
_CENTURY = 100 * 365.25 * 86_400
# What the operator may have written for the model only: for who may everything.
_CONFIDENTIAL = ("modelfile", "template", "system")


class ShowBody(Body):
    """Which model, and whether its vocabulary is wanted; `system` and `options` are shown in place of its own."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    system: str | None = None
    options: dict[str, Any] | None = None


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["ollama"])
    known = KnownDetails(services.library)

    @router.api_route("/api/tags", methods=["GET", "HEAD"], include_in_schema=False)
    @needs(Scope.INFER)
    async def tags() -> Response:
        return answer({"models": await installed(services, known)})

    @router.api_route("/api/ps", methods=["GET"], summary="What is in memory")
    @needs(Scope.INFER)
    async def ps() -> Response:
        return answer({"models": await in_memory(services, known)})

    @router.post("/api/show", summary="What a model is", openapi_extra=describes(ShowBody))
    @needs(Scope.INFER)
    async def show(request: Request) -> Response:
        body = await checked(ShowBody, await read_object(request))
        spec = services.pool.repository.find(named(body.model, body.name))
        details = await (known.with_vocabulary(spec) if body.verbose else known.of(spec))
        content = shown(details, body)
        if not caller_of(request.scope).is_admin:
            content |= dict.fromkeys(_CONFIDENTIAL, "") | {"messages": []}
        return answer(content)

    return router


async def installed(services: Services, known: KnownDetails) -> list[Json]:
    """Every installed model, the newest first."""
    specs = sorted(services.pool.repository.installed(), key=lambda spec: spec.modified_at, reverse=True)
    return [
        {
            "name": full_name(details.spec),
            "model": full_name(details.spec),
            "modified_at": rfc3339_nanoseconds(details.spec.modified_at),
            "size": details.spec.size_bytes,
            "digest": details.spec.digest,
            "details": details_body(details),
            "capabilities": list(details.spec.capabilities),
        }
        for details in await known.of_all(specs)
    ]


async def in_memory(services: Services, known: KnownDetails) -> list[Json]:
    """Every model that is loaded, the one that stays longest first."""
    now = services.clock.now()
    loaded = [(resident, resident.model) for resident in services.pool.residents() if resident.model is not None]
    loaded.sort(key=lambda pair: _expires_at(pair[0], now), reverse=True)
    return [
        {
            "name": full_name(resident.spec),
            "model": full_name(resident.spec),
            "size": model.memory_bytes,
            "digest": resident.spec.digest,
            "details": details_body(await known.of(resident.spec)),
            "expires_at": rfc3339_nanoseconds(_expires_at(resident, now)),
            "size_vram": _on_gpu(model),
            "context_length": model.context_length,
        }
        for resident, model in loaded
    ]


def _expires_at(resident: Resident, now: float) -> float:
    if resident.expires_at is not None:
        return resident.expires_at
    # In use: its time begins when the last use ends, which is not before now.
    return now + (_CENTURY if resident.pinned else min(resident.keep_alive, _CENTURY))


def _on_gpu(model: Model) -> int:
    return 0 if model.device == "cpu" else model.memory_bytes


def shown(details: ModelDetails, body: ShowBody) -> Json:
    """The answer of /api/show."""
    spec = details.spec
    preset = spec.preset
    parameters = dict(preset.parameters)
    if body.options:
        parse_options(body.options)
        parameters |= {name: value for name, value in body.options.items() if value is not None}
    system = (preset.system or "") if body.system is None else body.system
    return {
        "license": details.licence or spec.licence,
        "modelfile": modelfile(full_name(spec), preset.template, system, parameters, preset.messages),
        "parameters": parameters_text(parameters),
        "template": preset.template or details.template,
        "system": system,
        "details": details_body(details),
        "messages": [message_record(message) for message in preset.messages],
        "model_info": model_info(details),
        "capabilities": list(spec.capabilities),
        "modified_at": rfc3339_nanoseconds(spec.modified_at),
    }


def model_info(details: ModelDetails) -> Json:
    """What the files say, in the names that GGUF gives it; the vocabulary only where it was read."""
    spec = details.spec
    architecture = details.architecture or spec.family
    counts = {
        "attention.head_count": details.head_count,
        "attention.head_count_kv": details.head_count_kv,
        "vocab_size": details.vocabulary_size,
    }
    return {
        "general.architecture": architecture,
        "general.basename": details.basename or spec.title,
        "general.parameter_count": details.parameters or spec.parameters,
        f"{architecture}.context_length": details.context_length or spec.context_length,
        f"{architecture}.embedding_length": details.embedding_length,
        f"{architecture}.block_count": details.block_count,
        **{f"{architecture}.{name}": count for name, count in counts.items() if count},
        **({"tokenizer.ggml.tokens": list(details.vocabulary)} if details.vocabulary else {}),
    }
