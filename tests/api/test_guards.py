"""Who may ask: hosts, origins, CORS."""
# ruff: noqa: N802 (ids of attacks stand in the names of their tests)

import socket

import httpx2
import pytest

from api.guards import AllowedOrigins, host_name, is_local_host
from api.services import Exposure
from tests.api.world import TEXT, World, in_process, serving


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "[::1]",
        "[::1]:8080",
        "127.0.0.1",
        "127.1.2.3:80",
        "10.0.0.5",
        "192.168.1.7:8080",
        "x.internal",
        "a.b.local",
        "ingle.localhost",
        socket.gethostname(),
        "listed.example",
    ],
)
async def test_N3_local_and_listed_hosts_are_served(world: World, host: str) -> None:
    app = world.app(exposure=Exposure(allowed_hosts=frozenset({"Listed.example"})))
    async with in_process(app) as client:
        assert (await client.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:80",
        "8.8.8.8",
        "localhost/v1/models?",
        "localhost@evil.example",
        "local host",
        "local",
        "internal",
        "localhost:http",
        "[::1",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "0x7f.1",
    ],
)
async def test_N3_dns_rebinding_stops_at_the_host_header(client: httpx2.AsyncClient, host: str) -> None:
    for path, shape in (("/health", "code"), ("/v1/models", "error"), ("/api/tags", "error")):
        response = await client.get(path, headers={"host": host})
        assert response.status_code == 403
        assert shape in response.json()
    assert (await client.get("/health", headers={"host": host})).json()["code"] == "host_not_allowed"


async def test_N3_two_hosts_are_one_too_many(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health", headers=[("host", "localhost"), ("host", "127.0.0.1")])
    assert response.status_code == 403


async def test_N3_the_guard_can_be_off_behind_keys(world: World) -> None:
    async with in_process(world.app(exposure=Exposure(guard_hosts=False))) as client:
        assert (await client.get("/health", headers={"host": "any.example"})).status_code == 200


async def test_N1_a_host_with_a_path_in_it_opens_nothing(world: World) -> None:
    async with serving(world.app()) as server:
        for request in (
            b"GET /nothing HTTP/1.1\r\nHost: localhost/health?\r\n\r\n",
            b"GET @evil/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET evil/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET //evil/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /health/../health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /%2e%2e/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"CONNECT evil:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            reader, writer = await server.connect()
            writer.write(request)
            status = int((await reader.readuntil(b"\r\n")).split()[1])
            assert status in (400, 403, 404), request
            writer.close()


def test_hosts_are_compared_without_case_port_and_brackets() -> None:
    assert host_name("LocalHost:80") == "localhost"
    assert host_name("[::1]:80") == "::1"
    assert host_name("a b") is None
    assert host_name("a\n") == "a"
    assert is_local_host("fd00::1")
    assert not is_local_host("2001:4860:4860::8888")


LOCAL_ORIGINS = [
    "http://localhost",
    "https://localhost:3000",
    "http://127.0.0.1:5173",
    "http://[::1]:80",
    "http://0.0.0.0:1",
    "app://obsidian.md",
    "file://",
    "tauri://localhost",
    "vscode-webview://abc",
    "vscode-file://vscode-app",
    "https://chat.example",
]
FOREIGN_ORIGINS = [
    "https://evil.example",
    "null",
    "http://localhost.evil.example",
    "http://localhost@evil.example",
    "https://chat.example.evil.example",
    "http://chat.example",
    "chrome-extension://abc",
    "ftp://localhost",
    "",
    "http://[::1",
]


@pytest.mark.parametrize("origin", LOCAL_ORIGINS)
async def test_N8_allowed_origins_may_read_answers(world: World, origin: str) -> None:
    app = world.app(exposure=Exposure(origins=frozenset({"https://chat.example"})))
    async with in_process(app) as client:
        response = await client.post("/load-model", headers={"origin": origin})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in response.headers
        assert "Origin" in response.headers["vary"]
        preflight = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "Authorization, content-type, x-stainless-os, x-evil, x-stainless-",
        }
        response = await client.options("/generate", headers=preflight)
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-os"
        assert response.headers["access-control-allow-methods"] == "GET, POST, DELETE"
        assert response.headers["access-control-max-age"] == "600"
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_N9_a_page_of_another_site_changes_nothing(world: World, origin: str) -> None:
    app = world.app(exposure=Exposure(origins=frozenset({"https://chat.example"})))
    async with in_process(app) as client:
        headers = {"origin": origin, "content-type": "text/plain"}
        response = await client.post("/load-model", content=b"{}", headers=headers)
        assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
        assert world.repository.in_memory == set()
        assert (await client.request("DELETE", "/api/delete", headers=headers)).status_code == 403
        response = await client.get("/health", headers=headers)
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        assert "access-control-allow-origin" not in (await client.options("/generate", headers=preflight)).headers


async def test_N9_the_servers_own_pages_and_programs_without_a_browser_are_served(client: httpx2.AsyncClient) -> None:
    for headers in (
        {},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"host": "10.0.0.5:8080", "origin": "http://10.0.0.5:8080"},
        {"host": "x.internal", "origin": "https://x.internal"},
    ):
        assert (await client.post("/optimize-memory", headers=headers)).status_code == 200
    response = await client.post("/optimize-memory", headers={"sec-fetch-site": "cross-site"})
    assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
    response = await client.post(
        "/optimize-memory", headers={"host": "10.0.0.5:8080", "origin": "http://10.0.0.5:9090"}
    )
    assert response.status_code == 403


async def test_errors_of_allowed_origins_can_be_read_too(client: httpx2.AsyncClient) -> None:
    origin = "http://localhost:3000"
    response = await client.post("/generate", content=b"{", headers={"origin": origin})
    assert response.status_code == 400
    assert response.headers["access-control-allow-origin"] == origin
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]


def test_an_origin_is_compared_as_a_whole() -> None:
    origins = AllowedOrigins(["https://chat.example/", "HTTPS://Other.example"])
    assert origins.allows("https://chat.example", "")
    assert origins.allows("https://other.example", "")
    assert not origins.allows("https://chat.example:8443", "")
    assert not origins.allows("https://x", "")


async def test_N10_forwarded_headers_move_nothing(client: httpx2.AsyncClient) -> None:
    headers = {"x-forwarded-host": "evil.example", "x-forwarded-prefix": "/evil", "x-http-method-override": "DELETE"}
    response = await client.get("/models/", headers=headers)
    assert response.status_code == 404
    assert "location" not in response.headers
    assert "evil" not in response.text
    assert (await client.get(f"/models/{TEXT}", headers=headers)).status_code == 200
