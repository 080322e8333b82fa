"""/load-model, /unload-model, /models."""

import asyncio
from typing import Any

import httpx2
import pytest

from application.residents import ResidentState
from domain.caveat import Caveat
from domain.errors import InsufficientMemory, ModelLoadFailed
from domain.model import LoadOptions
from domain.rung import Rung, RungVerdict
from tests.api.sound import upload
from tests.api.world import SPEECH, TEXT, World, in_process, make_world, until
from tests.fakes.models import GIB


async def test_a_model_is_loaded_as_asked_and_described(world: World, client: httpx2.AsyncClient) -> None:
    body = {
        "model_id": "Tiny",
        "device": "cpu",
        "dtype": "bfloat16",
        "quantization": "int8",
        "num_ctx": 1024,
        "keep_alive": "10m",
    }
    response = await client.post("/load-model", json=body)
    answer = response.json()
    assert response.status_code == 200
    assert world.repository.loads == [(TEXT, LoadOptions("cpu", "bfloat16", "int8", 1024))]
    expires_at = answer.pop("expires_at")
    assert expires_at.endswith("Z")
    assert answer == {
        "success": True,
        "status": "loaded",
        "model_id": "Tiny",
        "resolved_model": TEXT,
        "name": "tiny:1b for tests",
        "kind": "text",
        "device": "cpu",
        "dtype": "bfloat16",
        "quantization": "int8",
        "is_loaded": True,
        "context_length": 1024,
        "memory_bytes": GIB,
        "load_time_ms": 1200,
        "pinned": False,
    }


async def test_parameters_may_stand_in_the_query_the_body_or_both(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post(
        "/load-model?model_id=tiny&keep_alive=600&num_ctx=1024&pin=true", json={"device": "cpu"}
    )
    assert response.status_code == 200
    assert response.json()["pinned"] is True
    assert response.json()["expires_at"] is None
    assert world.repository.loads[-1][1] == LoadOptions("cpu", "auto", "auto", 1024)
    assert (await client.post("/load-model?num_ctx=1024", json={"num_ctx": 1024})).status_code == 200
    assert (await client.post("/load-model", content=b"")).json()["model_id"] == "qwen-model_full"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("model_id=tiny", {"model_id": "ear"}),
        ("model_id=tiny", {"model": "ear"}),
        ("model_id=tiny&model=ear", {}),
        ("model_id=tiny&model_id=ear", {}),
        ("num_ctx=5", {"num_ctx": 6}),
        ("pin=maybe", {}),
        ("num_ctx=many", {}),
        ("num_ctx=-1", {}),
        ("num_ctx=5000000", {}),
        ("keep_alive=nan", {}),
        ("keep_alive=soon", {}),
        ("", {"pin": "true"}),
        ("", {"num_ctx": "5"}),
        ("", {"dtype": "int3"}),
        ("", {"quantization": "int4"}),
    ],
)
async def test_parameters_that_contradict_or_make_no_sense_are_refused(
    world: World, client: httpx2.AsyncClient, query: str, body: dict[str, Any]
) -> None:
    response = await client.post(f"/load-model?{query}", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    assert world.repository.loads == []


async def test_a_loaded_model_is_loaded_already(world: World, client: httpx2.AsyncClient) -> None:
    assert (await client.post("/load-model")).json()["status"] == "loaded"
    answer = (await client.post("/load-model", json={"pin": True})).json()
    assert (answer["status"], answer["pinned"], answer["expires_at"]) == ("already_loaded", True, None)
    assert (await client.post("/load-model")).json()["pinned"] is True
    assert (await client.post("/load-model?pin=false")).json()["pinned"] is False
    assert world.repository.count_loads(TEXT) == 1


async def test_a_model_in_use_is_not_reloaded_otherwise(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/load-model", json={"num_ctx": 1024})
    gate = world.repository.script(TEXT).text.before_first.shut()
    generating = asyncio.create_task(client.post("/generate", json={"prompt": "a"}))
    await gate.arrived()
    response = await client.post("/load-model", json={"num_ctx": 2048})
    assert (response.status_code, response.json()["code"], response.json()["in_flight"]) == (409, "model_busy", 1)
    response = await client.post("/unload-model", json={"model_id": TEXT})
    assert (response.status_code, response.json()["code"], response.json()["in_flight"]) == (409, "model_busy", 1)
    response = await client.post("/unload-model?model_id=all")
    assert (response.json()["models"], response.json()["busy"]) == ([], [TEXT])
    gate.open()
    assert (await generating).status_code == 200
    assert (await client.post("/load-model", json={"num_ctx": 2048})).json()["context_length"] == 2048


async def test_keep_alive_0_lets_a_busy_model_finish_first(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    generating = asyncio.create_task(client.post("/generate", json={"prompt": "a"}))
    await gate.arrived()
    response = await client.post("/generate", json={"model": TEXT, "keep_alive": 0})
    assert (response.status_code, response.json()["done_reason"]) == (200, "unload")
    assert world.repository.in_memory == {TEXT}
    gate.open()
    assert (await generating).json()["response"] == "a"
    await until(lambda: not world.repository.in_memory)
    assert world.repository.unloads == [TEXT]


async def test_unloading_says_what_it_freed(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/load-model")
    answer = (await client.post("/unload-model", json={"model_id": "tiny"})).json()
    expected = {"success": True, "status": "unloaded", "model_id": "tiny", "resolved_model": TEXT, "freed_bytes": GIB}
    assert answer == expected
    answer = (await client.post("/unload-model?model=tiny")).json()
    assert answer == {**expected, "success": False, "status": "not_loaded", "freed_bytes": 0}
    response = await client.post("/unload-model")
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["body", "model_id"])


async def test_a_pin_holds_until_it_is_forced(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/load-model", json={"pin": True})
    response = await client.post("/unload-model", json={"model_id": TEXT})
    assert (response.status_code, response.json()["code"]) == (409, "model_pinned")
    await client.post("/unload-model", json={"model_id": "all"})
    assert world.repository.in_memory == {TEXT}
    assert (await client.post("/unload-model", json={"model_id": TEXT, "force": True})).json()["success"] is True


async def test_force_ends_the_work_in_flight_with_499(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    generating = asyncio.create_task(client.post("/generate", json={"prompt": "a"}))
    await gate.arrived()
    answer = (await client.post("/unload-model?model_id=all&force=true")).json()
    assert (answer["success"], answer["models"], answer["busy"]) == (True, [TEXT], [])
    response = await generating
    assert (response.status_code, response.json()["code"]) == (499, "request_cancelled")
    gate.open()


async def test_two_requests_share_one_load(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).load.shut()
    waiting = [asyncio.create_task(client.post("/load-model")) for _ in range(3)]
    waiting += [asyncio.create_task(client.post("/generate", json={"prompt": "a"})) for _ in range(3)]
    await gate.arrived()
    answer = (await client.get("/models/tiny")).json()
    assert (answer["state"], answer["is_loaded"], answer["device"]) == ("loading", False, None)
    assert (await client.get("/health")).status_code == 200
    gate.open()
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [200] * 6
    assert world.repository.count_loads(TEXT) == 1


async def test_a_load_that_cannot_fit_is_507_with_both_numbers(tmp_path: Any) -> None:
    world = make_world(tmp_path, memory_budget=GIB // 2)
    async with in_process(world.app()) as client:
        response = await client.post("/load-model")
    assert (response.status_code, response.json()["code"]) == (507, InsufficientMemory.code)
    assert (response.json()["needed_bytes"], response.json()["available_bytes"]) == (GIB, GIB // 2)


async def test_a_failed_load_is_shown_until_one_succeeds(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).load_failures.append(ModelLoadFailed("weights.gguf does not have its sha256"))
    response = await client.post("/load-model")
    assert (response.status_code, response.json()["code"]) == (500, "model_load_failed")
    assert response.json()["detail"] == "weights.gguf does not have its sha256"
    answer = (await client.get(f"/models/{TEXT}")).json()
    assert answer["state"] == "failed"
    assert answer["failure"] == {"code": "model_load_failed", "detail": "weights.gguf does not have its sha256"}
    health = (await client.get("/health")).json()
    assert (health["status"], health["problems"]) == ("degraded", [f"model '{TEXT}' does not load"])
    assert (await client.post("/load-model")).status_code == 200
    assert (await client.get(f"/models/{TEXT}")).json()["state"] == "loaded"
    assert (await client.get("/health")).json()["status"] == "healthy"


async def test_other_models_work_on_while_one_does_not_load(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).load_failures.append(RuntimeError("/srv/models/x.bin is broken"))
    response = await client.post("/generate", json={"prompt": "a"})
    assert (response.status_code, response.json()["code"]) == (500, "model_load_failed")
    assert "/srv" not in response.text
    assert (await client.post("/load-model", json={"model": SPEECH})).status_code == 200


async def test_models_are_listed_and_filtered(client: httpx2.AsyncClient) -> None:
    await client.post("/load-model")
    models = (await client.get("/models")).json()["models"]
    assert [(model["model_id"], model["kind"], model["state"]) for model in models] == [
        (TEXT, "text", "loaded"),
        (SPEECH, "speech", "installed"),
        ("vector:small", "embedding", "installed"),
    ]
    assert [one["model_id"] for one in (await client.get("/models?loaded=true")).json()["models"]] == [TEXT]
    assert [one["model_id"] for one in (await client.get("/models?kind=speech")).json()["models"]] == [SPEECH]
    assert (await client.get("/models?loaded=false&kind=text")).json()["models"] == []
    for query in ("kind=video", "loaded=perhaps", "loaded=true&loaded=false"):
        response = await client.get(f"/models?{query}")
        assert (response.status_code, response.json()["code"]) == (422, "validation_error")


async def test_a_model_has_every_field_that_its_readers_expect(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/models/qwen-model_full")).json()
    assert set(answer) == {
        "model_id",
        "name",
        "kind",
        "type",
        "capabilities",
        "device",
        "dtype",
        "quantization",
        "kernel",
        "is_loaded",
        "state",
        "size_bytes",
        "context_length",
        "in_flight",
        "pinned",
        "expires_at",
    }
    assert (answer["model_id"], answer["type"], answer["context_length"]) == (TEXT, "text-generation", 4096)


async def test_an_unloading_model_says_so(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/load-model")
    gate = world.repository.script(TEXT).unload.shut()
    unloading = asyncio.create_task(client.post("/unload-model", json={"model_id": TEXT}))
    await gate.arrived()
    assert (await client.get("/models/tiny")).json()["state"] == ResidentState.UNLOADING
    gate.open()
    assert (await unloading).json()["success"] is True


GPU_RUNGS = (
    Rung("cuda:0", "float16", RungVerdict.REJECTED, 1.5, "its text is empty"),
    Rung("cpu", "int8", RungVerdict.USED, 0.4),
)


async def test_a_recogniser_tells_what_was_tried_and_what_its_answers_say(
    world: World, client: httpx2.AsyncClient
) -> None:
    script = world.repository.script(SPEECH).speech
    script.rungs, script.caveats = GPU_RUNGS, (Caveat("cpu_fallback", "the GPU is not used"),)
    before = (await client.get(f"/models/{SPEECH}")).json()
    assert (before["compute_type"], before["rungs"], before["warnings"]) == (None, [], [])
    answer = (await client.post("/transcribe", files=upload())).json()
    assert answer["warnings"] == [{"code": "cpu_fallback", "message": "the GPU is not used"}]
    entry = (await client.get(f"/models/{SPEECH}")).json()
    assert entry["warnings"] == answer["warnings"]
    assert entry["rungs"][0] == {
        "device": "cuda:0",
        "compute_type": "float16",
        "verdict": "rejected",
        "seconds": 1.5,
        "reason": "its text is empty",
    }
    assert [rung["verdict"] for rung in entry["rungs"]] == ["rejected", "used"]
    health = (await client.get("/health")).json()
    assert health["status"] == "degraded"
    assert health["problems"] == [f"model '{SPEECH}' does not hear in float16 on cuda:0: its text is empty"]


async def test_a_model_that_fails_to_load_on_every_rung_is_500_and_leaves_others_alone(
    world: World, client: httpx2.AsyncClient
) -> None:
    await client.post("/generate", json={"prompt": "one"})
    world.repository.script(SPEECH).load_failures.append(ModelLoadFailed("it cannot be used on cuda:0"))
    refusal = await client.post("/transcribe", files=upload())
    assert (refusal.status_code, refusal.json()["code"]) == (500, "model_load_failed")
    assert (await client.post("/generate", json={"prompt": "one"})).status_code == 200
    assert world.repository.count_loads(TEXT) == 1
