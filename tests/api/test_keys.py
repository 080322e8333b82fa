"""Keys over HTTP: how they are shown, what is told without one, and what is only for administrators."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest

from api.services import Exposure
from domain.access import Scope
from domain.keep_alive import FOREVER
from domain.key_ring import KeyRing
from tests.api.problems import refused
from tests.api.sound import upload
from tests.api.world import EMBEDDING, SPEECH, TEXT, World, in_process, serving
from tests.fakes.keys import FakeKeys, key_of, keys, shown, stored


@pytest.fixture
def known() -> FakeKeys:
    return keys(stored("second", Scope.INFER))


@pytest.fixture
async def client(world: World, known: FakeKeys) -> AsyncGenerator[httpx2.AsyncClient, None]:
    async with in_process(world.app(keys=known)) as client:
        yield client


KEY = key_of("infer")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"x-api-key": KEY, "authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY, "authorization": "Basic dXNlcjpwYXNz"},
    ],
)
async def test_a_key_is_shown_in_either_header(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.get("/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", KEY)],
        [("authorization", f"Basic {KEY}")],
        [("authorization", f"Bearer{KEY}")],
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer {KEY[:-1]}")],
        [("authorization", f"Bearer {KEY.upper()}")],
        [("authorization", f"Bearer {KEY}, Bearer {KEY}")],
        [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")],
        [("x-api-key", "other"), ("authorization", f"Bearer {KEY}")],
        [("x-api-key", ""), ("authorization", f"Bearer {KEY}")],
        [("x-api-key", "\xff\xfe\x80")],
        [("x-api-key", "k" * 60_000)],
        [("x-api-key", f"{KEY}\x01")],
        [("cookie", f"api_key={KEY}")],
        [("proxy-authorization", f"Bearer {KEY}")],
        [("x-original-url", "/health"), ("x-rewrite-url", "/health")],
        [("x-http-method-override", "HEAD")],
    ],
)
async def test_n5_what_is_no_key_in_its_header_is_401(client: httpx2.AsyncClient, headers: list[Any]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    body = refused(await client.get("/models", headers=raw), 401, "invalid_api_key")
    assert KEY not in str(body)


@pytest.mark.parametrize("query", ["api_key", "key", "token", "access_token", "x-api-key", "authorization"])
async def test_n5_a_key_in_the_address_is_no_key(client: httpx2.AsyncClient, query: str) -> None:
    refused(await client.get("/models", params={query: KEY}), 401, "invalid_api_key")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost/health?\r\n",
        b"GET @localhost/v1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"GET http://localhost/health/../v1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"GET //v1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /health/../v1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /health%2f..%2fv1/models HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /v1/models/ HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /v1/models;/health HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Prefix: /health\r\n",
        b"GET /v1/models HTTP/1.0\r\n",
        b"HEAD /api/tags HTTP/1.1\r\nHost: localhost\r\n",
    ],
)
async def test_n1_no_way_of_writing_the_request_opens_a_route(world: World, known: FakeKeys, head: bytes) -> None:
    async with serving(world.app(keys=known)) as server:
        reader, writer = await server.connect()
        writer.write(head + b"Connection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.split()[1] in (b"400", b"401", b"403", b"404")
    assert TEXT.encode() not in answer


async def test_a_body_is_refused_before_it_is_read(world: World, known: FakeKeys) -> None:
    async with serving(world.app(keys=known)) as server:
        reader, writer = await server.connect()
        writer.write(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        writer.close()
    assert b" 401 " in answer


async def test_a_route_that_says_nothing_is_open_to_administrators_only(world: World, known: FakeKeys) -> None:
    app = world.app(keys=known)

    @app.get("/forgotten")
    async def forgotten() -> str:
        return "secret"

    async with in_process(app) as client:
        refused(await client.get("/forgotten"), 401, "invalid_api_key")
        refused(await client.get("/forgotten", headers=shown("infer")), 403, "insufficient_scope")
        assert (await client.get("/forgotten", headers=shown("admin"))).json() == "secret"


async def test_only_the_listed_routes_answer_without_a_key(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/healthz", "/readyz"):
        assert (await client.get(path)).status_code == 200
    assert (await client.head("/")).status_code == 200
    for path in ("/docs", "/openapi.json", "/docs/start.js"):
        refused(await client.get(path), 401, "invalid_api_key")
        assert (await client.get(path, headers=shown("metrics"))).status_code == 200
    refused(await client.get("/nowhere"), 404, "not_found")


async def test_who_may_read_the_documentation_is_a_setting(world: World, known: FakeKeys) -> None:
    async with in_process(world.app(keys=known, exposure=Exposure(docs="public"))) as client:
        assert (await client.get("/docs")).status_code == 200
        description = (await client.get("/openapi.json")).json()
    assert set(description["components"]["securitySchemes"]) == {"bearer", "api_key"}
    async with in_process(world.app(keys=known, exposure=Exposure(docs="off"))) as client:
        assert (await client.get("/docs", headers=shown("admin"))).status_code == 404
    async with in_process(world.app()) as client:
        assert (await client.get("/docs")).status_code == 200


async def test_o3_without_a_key_health_has_five_fields(client: httpx2.AsyncClient) -> None:
    short = (await client.get("/health")).json()
    assert list(short) == ["status", "service", "version", "timestamp", "loaded_models_count"]
    assert list((await client.get("/health", headers={"x-api-key": "wrong"})).json()) == list(short)
    full = (await client.get("/health", headers=shown("infer"))).json()
    assert {"memory_usage", "device", "gpu_name"} <= set(full)


async def test_a_preflight_needs_no_key(client: httpx2.AsyncClient) -> None:
    wish = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    answer = await client.options(
        "/v1/chat/completions", headers={**wish, "access-control-request-headers": "x-api-key"}
    )
    assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (204, "x-api-key")


async def test_a_revoked_key_is_refused_from_then_on(client: httpx2.AsyncClient, known: FakeKeys) -> None:
    assert (await client.get("/models", headers=shown("infer"))).status_code == 200
    known.ring = KeyRing(tuple(key for key in known.ring.keys if key.caller.name != "infer"))
    refused(await client.get("/models", headers=shown("infer")), 401, "invalid_api_key")
    known.ring = KeyRing()
    refused(await client.get("/models", headers=shown("admin")), 401, "invalid_api_key")


async def test_without_keys_everybody_may_do_everything(world: World) -> None:
    async with in_process(world.app()) as client:
        assert (await client.post("/load-model", json={"model": TEXT, "pin": True})).status_code == 200
        assert (await client.get("/models", headers={"authorization": "Bearer anything"})).status_code == 200


async def test_no_key_is_in_any_log_or_answer(world: World, client: httpx2.AsyncClient, log: list[Any]) -> None:
    canary = key_of("infer")
    told = ""
    for path in ("/models", "/system-info", "/health", "/nowhere", "/load-model", "/v1/nothing", "/api/v1/stats"):
        for headers in (shown("infer"), {"x-api-key": f"{canary}x"}, {"authorization": f"Basic {canary}"}):
            answer = await client.get(path, headers=headers, params={"key": canary})
            told += answer.text + str(answer.headers)
    told += (await client.post("/generate", content=b"{", headers=shown("infer"))).text
    assert len(log) > 20
    assert canary not in told + str(log)


# -- what only administrators may do ------------------------------------------------------------------------


def kept(world: World, model: str) -> float:
    """How long the model stays when its last use ends."""
    return next(one.keep_alive for one in world.pool.residents() if one.spec.id == model)


CALLS = [
    ("/generate", TEXT, {"json": {"prompt": "hi", "model": TEXT}}),
    ("/generate", TEXT, {"json": {"model": TEXT}}),
    ("/generate", TEXT, {"json": {"query": "hi", "model_id": TEXT}}),
    ("/api/generate", TEXT, {"json": {"prompt": "hi", "model": TEXT, "stream": False}}),
    ("/api/generate", TEXT, {"json": {"model": TEXT, "stream": False}}),
    ("/api/chat", TEXT, {"json": {"messages": [{"role": "user", "content": "hi"}], "model": TEXT, "stream": False}}),
    ("/api/embed", EMBEDDING, {"json": {"input": "hi", "model": EMBEDDING}}),
    ("/api/embeddings", EMBEDDING, {"json": {"prompt": "hi", "model": EMBEDDING}}),
    ("/v1/chat/completions", TEXT, {"json": {"messages": [{"role": "user", "content": "hi"}], "model": TEXT}}),
    ("/v1/completions", TEXT, {"json": {"prompt": "hi", "model": TEXT}}),
    ("/v1/embeddings", EMBEDDING, {"json": {"input": "hi", "model": EMBEDDING}}),
    ("/transcribe", SPEECH, {"data": {}}),
    ("/detect-language", SPEECH, {"data": {}}),
    ("/v1/audio/transcriptions", SPEECH, {"data": {"model": SPEECH}}),
]


@pytest.mark.parametrize(
    ("path", "model", "call"), CALLS, ids=[f"{path} {index}" for index, (path, _, _) in enumerate(CALLS)]
)
async def test_only_an_administrator_keeps_a_model_longer_than_the_server_would(
    world: World, client: httpx2.AsyncClient, path: str, model: str, call: dict[str, Any]
) -> None:
    for key, wish, stays in (
        ("admin", "1h", 3600.0),
        ("infer", "1h", 300.0),
        ("admin", "-1s", FOREVER),
        ("infer", "-1s", 300.0),
        ("infer", "10s", 10.0),
    ):
        body: dict[str, Any] = {kind: {**fields, "keep_alive": wish} for kind, fields in call.items()}
        files = upload() if "data" in call else None
        answer = await client.post(path, **body, files=files, headers=shown(key))
        assert answer.status_code == 200, answer.text
        assert kept(world, model) == stays


async def test_only_an_administrator_pins_loads_and_deletes(world: World, client: httpx2.AsyncClient) -> None:
    for method, path in (("POST", "/load-model"), ("POST", "/unload-model"), ("DELETE", f"/v1/models/{TEXT}")):
        refusal = await client.request(method, path, headers=shown("infer"))
        assert refusal.status_code == 403
    assert world.pool.residents() == []
    assert len(world.repository.installed()) == 3


async def test_o3_templates_and_system_prompts_are_for_administrators(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "system": "be kind"}
    own = (await client.post("/api/show", json=body, headers=shown("admin"))).json()
    other = (await client.post("/api/show", json=body, headers=shown("infer"))).json()
    assert (own["system"], own["modelfile"] != "") == ("be kind", True)
    confidential = {"modelfile": "", "template": "", "system": "", "messages": []}
    assert other == {**own, **confidential}


# -- whose requests, whose turn -----------------------------------------------------------------------------


async def test_a_request_in_the_queue_is_known_to_its_own_key(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    body = {"prompt": "hi", "model": TEXT}
    asking = asyncio.create_task(
        client.post("/generate", json=body, headers={**shown("infer"), "x-request-id": "mine"})
    )
    await gate.arrived()
    for key, status in (("infer", 200), ("admin", 200), ("second", 404)):
        answer = await client.get("/queue/status", params={"request_id": "mine"}, headers=shown(key))
        assert answer.status_code == status
    refused(await client.post("/queue/cancel/mine", headers=shown("second")), 404, "request_not_found")
    unknown = await client.post("/queue/cancel/nobody", headers=shown("second"))
    refused(unknown, 404, "request_not_found")
    assert (await client.post("/queue/cancel/mine", headers=shown("infer"))).status_code == 202
    refused(await asyncio.wait_for(asking, 5), 499, "request_cancelled")
    gate.open()


async def test_requests_take_turns_by_key_and_not_by_address(world: World, client: httpx2.AsyncClient) -> None:
    body = {"prompt": "hi", "model": TEXT, "stream": False}
    for key in ("infer", "second"):
        for path, form in (("/api/generate", body), ("/v1/completions", body), ("/generate", {"query": "hi"})):
            assert (await client.post(path, json=form, headers=shown(key))).status_code == 200
        assert (await client.post("/transcribe", files=upload(), headers=shown(key))).status_code == 200
    turns = ["key:infer", "key:second"]
    assert [heard.request.client for heard in world.repository.speech(SPEECH).heard] == turns
    assert [asked.client for asked in world.repository.text(TEXT).requests] == [one for one in turns for _ in range(3)]
