"""/, /health, /healthz, /readyz, /system-info, /version, /docs, /openapi.json."""
# ruff: noqa: N802 (ids of attacks stand in the names of their tests)

import re

import httpx2

from api.services import Exposure
from application.ports import Gpu
from tests.api.world import SPEECH, World, in_process
from tests.fakes.models import GIB
from tests.fakes.probe import FakeProbe


async def test_the_root_answers_as_ollama_does(client: httpx2.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        response = await client.request(method, "/")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await client.get("/", headers={"accept": "text/html"})).text == "Ollama is running"


async def test_health_has_the_fields_of_its_forerunners(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/health")).json()
    assert answer.pop("timestamp").endswith("Z")
    figures = answer.pop("memory_usage")
    assert set(figures) == {"rss_mb", "vms_mb", "percent", "loaded_models_count"}
    assert answer == {
        "status": "healthy",
        "service": "ingle",
        "version": "0.1.0",
        "loaded_models_count": 0,
        "model": SPEECH,
        "device": "cpu",
        "gpu_available": False,
        "gpu_name": None,
    }


async def test_health_names_the_gpu(world: World) -> None:
    probe = FakeProbe([Gpu(0, "Imaginary GPU", 24 * GIB, "9.0")])
    async with in_process(world.app(probe=probe)) as client:
        answer = (await client.get("/health")).json()
        assert (answer["device"], answer["gpu_available"], answer["gpu_name"]) == ("cuda", True, "Imaginary GPU")
        await client.post("/load-model", json={"model": SPEECH})
        assert (await client.get("/health")).json()["device"] == "cpu"
        assert (await client.get("/system-info")).json()["gpus"][0]["name"] == "Imaginary GPU"


async def test_no_status_but_healthy_contains_that_word(world: World) -> None:
    async with in_process(world.app(readiness={"engine": lambda: False})) as client:
        response = await client.get("/health")
        assert response.status_code == 200
        assert response.json()["status"] == "degraded"
        assert "healthy" not in response.text
    async with in_process(world.app(heartbeats={"engine": lambda: False})) as client:
        response = await client.get("/health")
        assert response.status_code == 503
        assert response.json()["status"] == "down"
        assert response.headers["retry-after"]
        assert "healthy" not in response.text


async def test_liveness_and_readiness_ask_different_things(world: World) -> None:
    async with in_process(world.app(readiness={"preload": lambda: False, "memory": lambda: True})) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"status": "not_ready", "failed": ["preload"]})
    async with in_process(world.app(heartbeats={"engine": lambda: False})) as client:
        assert (await client.get("/healthz")).status_code == 503
        assert (await client.get("/readyz")).json()["failed"] == ["engine"]
    async with in_process(world.app()) as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_O3_system_info_says_what_the_machine_is_and_no_path(world: World) -> None:
    async with in_process(world.app(settings={"keep_alive": 300.0})) as client:
        response = await client.get("/system-info")
    answer = response.json()
    assert answer["cpu_count"] == 8
    assert (answer["memory_total"], answer["memory_percent"]) == (64.0, 0.0)
    assert (answer["thread_pool_workers"], answer["process_pool_workers"]) == (8, 2)
    assert answer["cpu"] == {"model": "Imaginary CPU @ 3.00GHz", "cores": 4, "threads": 8, "isa": ["avx2", "avx512f"]}
    assert answer["versions"]["ingle"] == "0.1.0"
    assert answer["capabilities"] == ["completion", "embedding", "transcription"]
    assert answer["settings"] == {"keep_alive": 300.0}
    assert answer["disk"]["models_free_bytes"] == 50 << 30
    assert answer["uptime_seconds"] > 0
    assert not re.search(r'"/[a-z]', response.text)


async def test_the_version_is_in_the_header_too(client: httpx2.AsyncClient) -> None:
    response = await client.get("/version")
    assert response.json() == {"name": "ingle", "version": "0.1.0", "ollama_api": "0.33.3"}
    assert response.headers["server"] == "ingle/0.1.0"


async def test_N16_the_docs_page_needs_no_other_host(client: httpx2.AsyncClient) -> None:
    response = await client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://", response.text)
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', response.text)
    assert len(assets) == 3
    for asset in assets:
        served = await client.get(asset)
        assert served.status_code == 200
        assert served.headers["content-type"].split(";")[0] in ("text/css", "text/javascript")
        assert served.content


async def test_the_description_has_every_route_and_every_field(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/openapi.json")).json()
    assert answer["openapi"].startswith("3.1")
    assert set(answer["paths"]) >= {
        "/asr",
        "/detect-language",
        "/generate",
        "/health",
        "/healthz",
        "/load-model",
        "/memory-usage",
        "/models",
        "/models/{name}",
        "/optimize-memory",
        "/readyz",
        "/system-info",
        "/queue/cancel/{request_id}",
        "/queue/status",
        "/transcribe",
        "/transcribe/batch",
        "/transcribe/url",
        "/unload-model",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/version",
    }
    body = answer["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    analysis, completion = body["oneOf"]
    assert {"query", "context", "max_length"} <= set(analysis["properties"])
    assert completion["properties"]["messages"]["anyOf"][0]["items"]["properties"]["role"] == {
        "title": "Role",
        "type": "string",
    }
    assert "$ref" not in str(answer["paths"])
    assert "HTTPValidationError" not in str(answer)
    for path, operations in answer["paths"].items():
        for operation in operations.values():
            parts = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
            assert parts == re.findall(r"{(\w+)}", path), path


async def test_N16_the_docs_can_be_off(world: World) -> None:
    async with in_process(world.app(exposure=Exposure(docs="off"))) as client:
        for path in ("/docs", "/openapi.json", "/docs/swagger-ui.css", "/redoc", "/docs/oauth2-redirect"):
            response = await client.get(path)
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
