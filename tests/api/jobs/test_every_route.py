"""Every route: no key, a wrong key, the right scope, every other scope."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from api.auth import opened_by
from api.error_shapes import Dialect, dialect_of
from domain.access import Scope
from tests.api.jobs.conftest import Office
from tests.api.world import in_process
from tests.fakes.keys import FakeKeys, keys, shown, stored

PUBLIC = {"/", "/health", "/healthz", "/readyz", "/ui"}
EMPTY_ID = "00000000-0000-4000-8000-000000000000"


def routes_of(app: FastAPI) -> Iterator[tuple[str, str, Any]]:
    """Method, path with something in each place, endpoint; of every route."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        assert isinstance(route, APIRoute), (
            f"{context.path}: the gate stands before routes of FastAPI only: add this one with @router.get"
        )
        assert route.body_field is None, f"{context.path}: the body would be read before the gate has looked at the key"
        path = str(context.path)
        for name in ("id", "name", "model", "request_id", "session_id", "digest", "rest", "owner_service"):
            path = path.replace(f"{{{name}:path}}", "x").replace(f"{{{name}}}", EMPTY_ID if name == "id" else "x")
        path = path.replace("{model_profile:path}", "x")
        assert "{" not in path, f"{path}: give this parameter a value here"
        for method in sorted(context.methods or ()):
            yield method, path, context.endpoint


@pytest.fixture
def known() -> FakeKeys:
    """One key for each scope, and for each scope one that opens everything else but administration."""
    but = [stored(f"not-{scope}", *(set(Scope) - {scope, Scope.ADMIN})) for scope in Scope]
    return keys(*but)


async def test_every_route_says_who_may_use_it(kept_office: Office, known: FakeKeys) -> None:
    app = kept_office.world.app(jobs=kept_office.services, keys=known)
    for method, path, endpoint in routes_of(app):
        scopes = opened_by(endpoint)
        assert scopes is not None, (
            f"{method} {path} does not say which scope opens it, so it is open to admin keys only: mark its endpoint, "
            f"below @router, with @needs(Scope.…) of api/auth.py (or @public, if it is on the public list)"
        )
        assert scopes or path in PUBLIC, f"{method} {path} must not be public"


async def test_a_route_opens_to_its_scope_and_to_nothing_else(kept_office: Office, known: FakeKeys) -> None:
    app = kept_office.world.app(jobs=kept_office.services, keys=known)
    async with in_process(app) as client:

        async def ask(method: str, path: str, key: str | None) -> httpx2.Response:
            headers = {} if key is None else {"x-api-key": key} if key == "wrong" else shown(key)
            return await asyncio.wait_for(client.request(method, path, headers=headers), 10)

        checked = 0
        for method, path, endpoint in routes_of(app):
            scopes = opened_by(endpoint) or frozenset()
            if not scopes:
                assert (await ask(method, path, None)).status_code not in (401, 403), path
                continue
            for key in (None, "wrong"):
                refusal = await ask(method, path, key)
                assert refusal.status_code == 401, (method, path, key)
                assert refusal.headers["www-authenticate"] == "Bearer"
                check_shape(refusal, path, 401, "invalid_api_key")
            closed = set(Scope) - scopes - {Scope.ADMIN}
            for scope in closed:
                refusal = await ask(method, path, scope)
                assert refusal.status_code == 403, (method, path, scope)
                check_shape(refusal, path, 403, "insufficient_scope")
            for scope in (*scopes, Scope.ADMIN):
                assert (await ask(method, path, scope)).status_code not in (401, 403), (method, path, scope)
            checked += 1
        assert checked > 60


def check_shape(response: httpx2.Response, path: str, status: int, code: str) -> None:
    """The shape of the path's dialect."""
    if response.request.method == "HEAD":
        return
    body = response.json()
    match dialect_of(path):
        case Dialect.NATIVE:
            assert response.headers["content-type"] == "application/problem+json"
            assert (body["status"], body["code"]) == (status, code)
        case Dialect.OPENAI:
            kind = "authentication_error" if status == 401 else "permission_error"
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert (body["error"]["type"], body["error"]["code"]) == (kind, code)
        case Dialect.ANTHROPIC:
            assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
        case Dialect.OLLAMA:
            assert set(body) == {"error"}
            assert body["error"] == "unauthorized" if status == 401 else "scope" in body["error"]
