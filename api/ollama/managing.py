"""POST /api/pull, /api/create, /api/copy and DELETE /api/delete: how models come, change and go."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.bodies import Body, checked, read_object
from api.docs_page import describes
from api.go_templates import check_template
from api.ollama.answering import answer, lines, named
from api.options import parameters_of
from api.services import Services
from api.streaming import Record, unless_client_leaves
from api.turns import MessageBodies, messages_of
from application.ports import Clock
from domain.access import Scope
from domain.errors import InvalidRequest, UnsupportedParameter
from domain.library import NewModel, PullProgress, PullStage
from domain.model import is_valid_name
from domain.preset import Preset

SUCCESS = {"status": "success"}
LINES_PER_SECOND = 10
_NOT_SUPPORTED = ("files", "adapters", "quantize")
_WORDS = {
    PullStage.MANIFEST: "pulling manifest",
    PullStage.VERIFYING: "verifying sha256 digest",
    PullStage.PUBLISHING: "writing manifest",
    PullStage.DONE: "success",
}


class NameBody(Body):
    """Which model; both fields mean the same."""

    model: str | None = None
    name: str | None = None


class PullBody(NameBody):
    """Which model is fetched, and whether its progress is told."""

    stream: bool | None = None


class CopyBody(Body):
    """A model, and the name that it gets beside its own."""

    source: str = ""
    destination: str = ""


class CreateBody(PullBody):
    """A model made from another: what it brings along of its own."""

    base: Any = Field(None, alias="from")
    system: str | None = None
    template: str | None = None
    license: Any = None
    parameters: dict[str, Any] | None = None
    messages: MessageBodies | None = None


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["ollama"])
    manage = services.manage

    @router.post("/api/pull", summary="Fetch a model", openapi_extra=describes(PullBody))
    @needs(Scope.ADMIN)
    async def pull(request: Request) -> Response:
        body = await checked(PullBody, await read_object(request))
        records = pulled(services, named(body.model, body.name))
        return await told(services, request, records, as_stream=body.stream is not False)

    @router.post("/api/create", summary="Make a model from another", openapi_extra=describes(CreateBody))
    @needs(Scope.ADMIN)
    async def create(request: Request) -> Response:
        raw = await read_object(request)
        body = await checked(CreateBody, raw)
        wish = new_model(raw, body)
        return await told(services, request, created(services, wish), as_stream=body.stream is not False)

    @router.post("/api/copy", summary="Give a model a second name", openapi_extra=describes(CopyBody))
    @needs(Scope.ADMIN)
    async def copy(request: Request) -> Response:
        body = await checked(CopyBody, await read_object(request))
        await manage.copy(named(body.source), valid(named(body.destination)))
        return Response(status_code=200)

    @router.delete("/api/delete", summary="Remove a model", openapi_extra=describes(NameBody))
    @needs(Scope.ADMIN)
    async def delete(request: Request) -> Response:
        body = await checked(NameBody, await read_object(request))
        await manage.delete(named(body.model, body.name))
        return Response(status_code=200)

    return router


def valid(name: str) -> str:
    """A name that a model can get. Raises InvalidRequest."""
    if not is_valid_name(name):
        raise InvalidRequest("invalid model name", field="model")
    return name


async def told(
    services: Services, request: Request, records: AsyncGenerator[Record, None], *, as_stream: bool
) -> Response:
    """Every record, or the last one alone."""
    if as_stream:
        return await lines(services, request, records)
    return answer(await unless_client_leaves(request.receive, _last_of(records)))


async def _last_of(records: AsyncGenerator[Record, None]) -> Record:
    last: Record = SUCCESS
    async with aclosing(records):
        async for record in records:
            last = record
    return last


# -- pull -----------------------------------------------------------------------------------------------


async def pulled(services: Services, name: str) -> AsyncGenerator[Record, None]:
    """How far the pull is, in words and bytes, at most ten times a second for each file."""
    pace = _Pace(services.clock)
    async with aclosing(services.manage.pull(valid(name))) as steps:
        async for step in steps:
            record = _record(step)
            if pace.lets_pass(step, record):
                yield record


def _record(step: PullProgress) -> Record:
    if step.stage is not PullStage.FILES:
        return {"status": _WORDS[step.stage]}
    digest = step.digest or step.file
    status = f"pulling {step.digest[:12] or step.file}"
    return {
        "status": status,
        "digest": f"sha256:{digest}" if step.digest else digest,
        "total": step.total,
        "completed": step.completed,
    }


class _Pace:
    """Leaves out what says nothing new: repeated words, and figures that come too quickly and are not the last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: Record = {}
        self._told_at = -1.0

    def lets_pass(self, step: PullProgress, record: Record) -> bool:
        """Whether this record is told."""
        if record == self._last:
            return False
        now = self._clock.monotonic()
        is_same_file = record.get("digest") is not None and record.get("digest") == self._last.get("digest")
        is_early = now - self._told_at < 1 / LINES_PER_SECOND
        if is_same_file and is_early and step.completed < step.total:
            return False
        self._last, self._told_at = record, now
        return True


# -- create ---------------------------------------------------------------------------------------------


def new_model(raw: dict[str, Any], body: CreateBody) -> NewModel:
    """The wish for the domain. Raises InvalidRequest for what is missing, malformed or not supported."""
    name = valid(named(body.model, body.name))
    for field in _NOT_SUPPORTED:
        if raw.get(field):
            raise UnsupportedParameter("not supported", field=field)
    if not body.base:
        raise InvalidRequest("neither 'from' or 'files' was specified", field="from")
    if not isinstance(body.base, str):
        raise InvalidRequest("from must be a string", field="from")
    if body.template:
        check_template(body.template)
    messages = messages_of(body.messages or ())
    preset = Preset(body.system, parameters_of(body.parameters), messages, body.template or "")
    return NewModel(name, body.base, preset, _licence(body.license))


def _licence(given: Any) -> str:
    texts = given if isinstance(given, list) else [given] if given is not None else []
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("license must be a string or a list of strings", field="license")
    return "\n".join(texts)


async def created(services: Services, wish: NewModel) -> AsyncGenerator[Record, None]:
    """The steps of making a model; the first of them comes when it is made, so that a refusal has its status."""
    made = await services.manage.create(wish)
    yield {"status": f"using existing layer sha256:{made.digest}"}
    if wish.preset.system is not None:
        yield {"status": "creating system layer"}
    yield {"status": "writing manifest"}
    yield SUCCESS
