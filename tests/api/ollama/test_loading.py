"""A model and nothing to write: it comes or goes. How long it stays is seen in /api/ps."""

import asyncio
from typing import Any

import httpx2
import pytest

from domain.keep_alive import FOREVER
from tests.api.ollama.asking import USER, lines_of, moment, refused, whole
from tests.api.world import EMBEDDING, TEXT, World, until

CHAT: dict[str, Any] = {"message": {"role": "assistant", "content": ""}}


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [("/api/generate", {}, {"response": ""}), ("/api/chat", {"messages": []}, CHAT), ("/api/chat", {}, CHAT)],
)
async def test_nothing_to_write_loads_or_unloads_in_one_object(
    world: World, client: httpx2.AsyncClient, path: str, body: dict[str, Any], shape: dict[str, Any]
) -> None:
    answer = whole(await client.post(path, json={"model": TEXT, **body}))
    assert answer.pop("created_at").endswith("Z")
    assert answer == {"model": TEXT, **shape, "done": True, "done_reason": "load"}
    assert world.repository.in_memory == {TEXT}
    answer = whole(await client.post(path, json={"model": TEXT, **body, "keep_alive": 0}))
    assert (answer["done_reason"], world.repository.in_memory) == ("unload", set())
    answer = whole(await client.post(path, json={"model": TEXT, **body, "keep_alive": "0s"}))
    assert answer["done_reason"] == "unload"


async def test_a_model_of_any_kind_can_be_let_go(world: World, client: httpx2.AsyncClient) -> None:
    whole(await client.post("/api/embed", json={"model": EMBEDDING, "input": []}))
    assert world.repository.in_memory == {EMBEDDING}
    whole(await client.post("/api/generate", json={"model": EMBEDDING, "keep_alive": 0}))
    assert world.repository.in_memory == set()
    response = await client.post("/api/generate", json={"model": EMBEDDING})
    refused(response, 400, f'"{EMBEDDING}" does not support generate')


async def test_unloading_waits_for_the_last_request(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    answering = asyncio.create_task(client.post("/api/chat", json={"model": TEXT, "messages": USER}))
    await gate.arrived()
    assert whole(await client.post("/api/generate", json={"model": TEXT, "keep_alive": 0}))["done"]
    assert world.repository.in_memory == {TEXT}
    gate.open()
    assert lines_of(await answering)[-1]["done_reason"] == "stop"
    await until(lambda: world.repository.in_memory == set())


@pytest.mark.parametrize(
    ("spelling", "seconds"),
    [(90, 90.0), (1.5, 1.5), ("300ms", 0.3), ("1.5h", 5400.0), ("2h45m", 9900.0), (-1, FOREVER), ("-1m", FOREVER)],
)
async def test_keep_alive_is_spelt_in_many_ways(
    world: World, client: httpx2.AsyncClient, spelling: float | str, seconds: float
) -> None:
    body = {"model": TEXT, "prompt": "a", "stream": False, "keep_alive": spelling}
    whole(await client.post("/api/generate", json=body))
    (model,) = whole(await client.get("/api/ps"))["models"]
    left = moment(model["expires_at"]) - world.services.clock.now()
    if seconds == FOREVER:
        assert left > 99 * 365 * 86_400
    else:
        assert left == pytest.approx(seconds, abs=1.0)


@pytest.mark.parametrize("spelling", ["10", "soon", ""])
async def test_a_duration_without_a_unit_is_refused(client: httpx2.AsyncClient, spelling: str) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a", "keep_alive": spelling})
    assert response.status_code == 400
    assert "is not a duration" in response.json()["error"]


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), ([5], "[]interface {}"), ({}, "map[string]interface {}")])
async def test_keep_alive_of_another_type_is_refused(client: httpx2.AsyncClient, value: object, kind: str) -> None:
    for path, body in (("/api/generate", {"prompt": "a"}), ("/api/chat", {}), ("/api/embed", {"input": "a"})):
        name = EMBEDDING if path == "/api/embed" else TEXT
        response = await client.post(path, json={"model": name, **body, "keep_alive": value})
        refused(response, 400, f"Unsupported type: '{kind}'")


async def test_the_latest_keep_alive_counts(world: World, client: httpx2.AsyncClient) -> None:
    for keep_alive in (-1, 60):
        body = {"model": TEXT, "prompt": "a", "stream": False, "keep_alive": keep_alive}
        whole(await client.post("/api/generate", json=body))
    (model,) = whole(await client.get("/api/ps"))["models"]
    assert moment(model["expires_at"]) - world.services.clock.now() == pytest.approx(60, abs=1.0)
