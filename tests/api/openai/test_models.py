"""GET /v1/models and /v1/models/{model}."""

import asyncio
from dataclasses import replace

import httpx2

from domain.model import Task
from tests.api.world import EMBEDDING, SPEECH, TEXT, World, in_process
from tests.fakes.models import text_spec


async def test_every_installed_model_and_then_every_alias_is_listed(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.specs[0] = replace(world.repository.specs[0], modified_at=1_795_255_200.7)
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == [TEXT, SPEECH, EMBEDDING, "qwen-model_full", "whisper-1"]
    assert listed["data"][0] == {
        "id": TEXT,
        "object": "model",
        "created": 1_795_255_200,
        "owned_by": "ingle",
        "context_length": 4096,
        "capabilities": ["completion"],
        "kind": "text",
        "status": "unloaded",
    }
    assert listed["data"][3] == {**listed["data"][0], "id": "qwen-model_full"}


async def test_aliases_of_nothing_and_the_catch_all_are_not_listed(world: World) -> None:
    aliases = {"*": TEXT, "gone": "missing:1b", "short": TEXT}
    world.repository.aliases = {"short": TEXT}
    async with in_process(world.app(aliases=aliases)) as client:
        listed = (await client.get("/v1/models")).json()["data"]
    assert [entry["id"] for entry in listed][3:] == ["short"]


async def test_one_model_is_found_by_any_of_its_names(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.specs.append(text_spec("host/ns/deep:7b"))
    for name in (TEXT, "qwen-model_full", "tiny", "host/ns/deep:7b", "host%2Fns%2Fdeep:7b"):
        response = await client.get(f"/v1/models/{name}")
        assert response.status_code == 200
        assert response.json()["id"] == name.replace("%2F", "/")


async def test_the_status_follows_the_model_into_memory(world: World, client: httpx2.AsyncClient) -> None:
    async def status() -> str:
        return str((await client.get(f"/v1/models/{TEXT}")).json()["status"])

    loads = world.repository.script(TEXT).load.shut()
    assert await status() == "unloaded"
    loading = asyncio.create_task(world.pool.load(TEXT))
    await loads.arrived()
    assert await status() == "loading"
    loads.open()
    await loading
    assert await status() == "loaded"


async def test_an_unknown_model_is_404(client: httpx2.AsyncClient) -> None:
    for name in ("nobody", "../secret", "a/b/c/d"):
        response = await client.get(f"/v1/models/{name.replace('/', '%2F')}")
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (404, "not_found_error", "model_not_found")


async def test_a_model_is_deleted_by_any_name_of_its_own(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.specs.append(text_spec("host/ns/deep:7b"))
    response = await client.delete("/v1/models/host/ns/deep:7b")
    assert response.status_code == 200, response.text
    assert response.json() == {"id": "host/ns/deep:7b", "object": "model", "deleted": True}
    response = await client.delete("/v1/models/host/ns/deep:7b")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_model_in_use_is_not_deleted(world: World, client: httpx2.AsyncClient) -> None:
    async with world.pool.lend(TEXT, Task.TEXT):
        response = await client.delete(f"/v1/models/{TEXT}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (409, "model_busy", "invalid_request_error")
    assert response.headers["x-should-retry"] == "false"
    assert (await client.get(f"/v1/models/{TEXT}")).status_code == 200
