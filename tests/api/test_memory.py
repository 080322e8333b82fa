"""/memory-usage and /optimize-memory."""

import asyncio
from typing import Any

import httpx2

from tests.api.world import TEXT, World, in_process, make_world
from tests.fakes.models import GIB


async def test_memory_usage_tells_who_holds_what(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/load-model")
    answer = (await client.get("/memory-usage")).json()
    usage = world.repository.memory()
    assert answer["process"]["rss_bytes"] == usage.rss
    assert answer["rss_mb"] == round(usage.rss / (1 << 20), 1)
    assert answer["system"]["used_bytes"] == usage.total - usage.available
    assert answer["loaded_models_count"] == 1
    [model] = answer["models"]
    assert (model["name"], model["kind"], model["bytes"], model["in_flight"]) == (TEXT, "text", GIB, 0)
    assert model["loaded_at"].endswith("Z")
    async with in_process(world.app(memory_budget_share=0.5)) as other:
        assert (await other.get("/memory-usage")).json()["budget_bytes"] == usage.total // 2


async def test_gpus_are_listed_by_what_the_driver_says(tmp_path: Any) -> None:
    world = make_world(tmp_path, gpus=2)
    async with in_process(world.app()) as client:
        [first, second] = (await client.get("/memory-usage")).json()["gpu"]
    assert (first["index"], second["index"]) == (0, 1)
    assert first["total_bytes"] == first["used_bytes"] + first["free_bytes"]


async def test_optimizing_says_what_it_did(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.garbage_bytes = 412 << 20
    answer = (await client.post("/optimize-memory")).json()
    assert answer["success"] is True
    assert answer["message"] == "Freed 412 MiB"
    assert answer["freed_bytes"] == 412 << 20
    assert answer["before"]["rss_bytes"] - answer["after"]["rss_bytes"] == 412 << 20
    assert answer["actions"]
    answer = (await client.post("/optimize-memory", json={})).json()
    assert (answer["message"], answer["freed_bytes"]) == ("Nothing could be freed", 0)


async def test_optimizing_harder_unloads_what_is_idle(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/load-model")
    await client.post("/optimize-memory")
    assert world.repository.in_memory == {TEXT}
    answer = (await client.post("/optimize-memory", json={"aggressive": True})).json()
    assert f"unloaded {TEXT}" in answer["actions"]
    await client.post("/load-model")
    free = world.repository.memory().available
    answer = (await client.post(f"/optimize-memory?target_free_bytes={free + 1}")).json()
    assert f"unloaded {TEXT}" in answer["actions"]
    for body in ({"target_free_bytes": -1}, {"aggressive": "yes"}, {"target_free_bytes": 1.5}):
        assert (await client.post("/optimize-memory", json=body)).status_code == 422


async def test_parallel_optimizations_share_one_run(world: World, client: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/optimize-memory") for _ in range(20)))
    assert len({answer.text for answer in answers}) == 1
    assert world.repository.trims == 1
