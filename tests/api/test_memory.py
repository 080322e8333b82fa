"""/memory-usage and /optimize-memory."""

import asyncio
from typing import Any

import httpx2

from application.device_arbiter import DeviceArbiter
from domain.memory import MemoryBounds
from domain.model import Task
from tests.api.world import EMBEDDING, SPEECH, TEXT, World, in_process, make_world
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
    assert (model["state"], model["gives_way"]) == ("loaded", False)
    assert (model["expected_bytes"], model["measured_bytes"]) == (GIB, GIB)
    assert answer["budget_bytes"] == world.repository.memory_budget
    [budget] = answer["budgets"]
    assert budget["room_bytes"] == budget["limit_bytes"] - budget["held_bytes"] - budget["promised_bytes"]
    assert answer["last_swap"] is None


async def test_above_the_bound_requests_are_refused_in_every_dialect_and_may_come_back(tmp_path: Any) -> None:
    world = make_world(tmp_path, bounds=MemoryBounds.below(0.9))
    chat = {"model": TEXT, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    requests = {
        "/generate": {"model": TEXT, "prompt": "Hello", "max_tokens": 4},
        "/v1/chat/completions": chat,
        "/api/chat": chat,
        "/v1/embeddings": {"model": EMBEDDING, "input": "Hello"},
    }
    async with in_process(world.app()) as client:
        world.repository.others_hold(int(0.95 * world.repository.memory_budget))
        for path, body in requests.items():
            refused = await client.post(path, json=body)
            assert refused.status_code == 503, path
            assert 5 <= int(refused.headers["retry-after"]) <= 7
            assert refused.headers["x-should-retry"] == "true"
            assert "95% of this machine's memory is in use" in refused.text or path.startswith("/api"), refused.text
        assert (await client.get("/memory-usage")).status_code == 200
        assert (await client.post("/unload-model", json={"model_id": TEXT})).status_code == 200
        assert world.repository.loads == []
        world.repository.others_hold(0)
        await asyncio.sleep(0.3)
        for path, body in requests.items():
            assert (await client.post(path, json=body)).status_code == 200, path


async def test_memory_that_busy_models_hold_is_worth_another_try_and_memory_that_is_not_there_is_not(
    tmp_path: Any,
) -> None:
    world = make_world(tmp_path, arbiter=DeviceArbiter(max_hold=0.0))
    world.repository.memory_budget = GIB
    async with in_process(world.app()) as client:
        async with world.pool.lend(TEXT, Task.TEXT):
            busy = await client.post("/load-model", json={"model": SPEECH})
            (holder,) = (await client.get("/memory-usage")).json()["models"]
        assert (busy.status_code, busy.json()["code"]) == (503, "server_overloaded")
        assert int(busy.headers["retry-after"]) >= 1
        assert TEXT in busy.json()["detail"]
        assert (holder["name"], holder["in_flight"]) == (TEXT, 1)
        swapped = await client.post("/load-model", json={"model": SPEECH})
        assert swapped.status_code == 200
        assert (await client.get("/memory-usage")).json()["last_swap"]["evicted"] == [TEXT]
        world.repository.memory_budget = GIB - 1
        never = await client.post("/load-model", json={"model": TEXT})
        assert (never.status_code, never.json()["code"]) == (507, "insufficient_memory")
        assert "smaller model" in never.json()["detail"]


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
