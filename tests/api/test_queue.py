"""GET /queue/status and POST /queue/cancel: what waits, what runs, and the end of one of them."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from application.device_arbiter import DeviceArbiter, Sharing
from application.in_flight import RequestsInFlight
from domain.errors import Overloaded
from domain.model import Task
from domain.transcription import SpeechQueue
from tests.api.sound import upload
from tests.api.world import EMBEDDING, SPEECH, TEXT, Served, World, in_process, make_world, until
from tests.fakes.clock import LoopClock
from tests.fakes.models import GIB, segment


async def status(client: httpx2.AsyncClient, request_id: str | None = None) -> dict[str, Any]:
    params = {} if request_id is None else {"request_id": request_id}
    response = await client.get("/queue/status", params=params)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def test_an_idle_server_has_nothing_to_do(client: httpx2.AsyncClient) -> None:
    answer = await status(client)
    [device] = answer.pop("devices")
    assert device.pop("total_bytes") >= device.pop("free_bytes") > 0
    assert device == {
        "device": "cpu",
        "sharing": "shared",
        "holder": None,
        "held_seconds": None,
        "waiting": [],
        "suspended": [],
        "swaps_total": 0,
        "last_swap": None,
        "in_use_by": [],
    }
    assert answer == {
        "current_queue_size": 0,
        "total_processed": 0,
        "total_queued": 0,
        "last_processed_at": None,
        "is_processing": False,
        "max_queue": 512,
        "queued": 0,
        "running": 0,
        "rejected_total": 0,
        "cancelled_total": 0,
        "oldest_wait_ms": 0,
        "draining": False,
        "by_kind": {kind: {"queued": 0, "running": 0} for kind in ("text", "speech", "embedding")},
        "by_model": [],
        "speech": {
            "active_requests": 0,
            "waiting_windows": 0,
            "waiting_audio_seconds": 0,
            "last_batch_rows": 0,
            "real_time_factor": None,
            "eta_seconds": None,
        },
    }


async def test_answers_of_every_kind_are_counted(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/transcribe", files=upload())
    await client.post("/detect-language", files=upload())
    await client.post("/generate", json={"prompt": "one two"})
    await client.post("/v1/embeddings", json={"model": EMBEDDING, "input": "one"})
    world.repository.script(SPEECH).speech.error = Overloaded()
    assert (await client.post("/transcribe", files=upload())).status_code == 503
    assert (await client.post("/transcribe", files=upload(), data={"model": "ear:bass"})).status_code == 404
    answer = await status(client)
    assert (answer["total_processed"], answer["total_queued"], answer["rejected_total"]) == (4, 4, 1)
    assert (answer["cancelled_total"], answer["current_queue_size"]) == (0, 0)
    assert answer["last_processed_at"].endswith("Z")


async def test_who_waits_and_who_runs_is_told_by_model_and_by_request(world: World, server: Served) -> None:
    client = server.client
    text, speech = world.repository.script(TEXT).text, world.repository.script(SPEECH).speech
    speech.queue = SpeechQueue(2, 5, 100.0, 4, 50.0)
    text.between.shut()
    speech.before_first.shut()
    asking = [
        asyncio.create_task(client.post("/generate", json={"prompt": "one two"}, headers={"x-request-id": "writing"})),
        asyncio.create_task(client.post("/transcribe", files=upload(), headers={"x-request-id": "first"})),
    ]
    await text.between.arrived()
    await speech.before_first.arrived()
    asking.append(asyncio.create_task(client.post("/transcribe", files=upload(), headers={"x-request-id": "second"})))
    await speech.before_first.arrived(2)
    answer = await status(client)
    assert (answer["queued"], answer["running"], answer["is_processing"]) == (2, 1, True)
    assert answer["oldest_wait_ms"] >= 0
    assert answer["by_kind"]["text"] == {"queued": 0, "running": 1}
    assert answer["by_kind"]["speech"] == {"queued": 2, "running": 0}
    assert answer["by_model"] == [
        {"model": TEXT, "queued": 0, "running": 1, "avg_wait_ms": None, "eta_ms": 0},
        {"model": SPEECH, "queued": 2, "running": 0, "avg_wait_ms": None, "eta_ms": 2000},
    ]
    assert answer["speech"] == {
        "active_requests": 2,
        "waiting_windows": 5,
        "waiting_audio_seconds": 100.0,
        "last_batch_rows": 4,
        "real_time_factor": 50.0,
        "eta_seconds": 2.0,
    }
    assert answer["devices"][0]["in_use_by"] == ["speech", "text"]
    assert await status(client, "second") == {
        "request_id": "second",
        "kind": "speech",
        "model": SPEECH,
        "state": "queued",
        "position": 2,
        "eta_ms": 2000,
    }
    running = await status(client, "writing")
    assert (running["state"], running["position"], running["eta_ms"]) == ("running", 0, 0)
    text.between.open()
    speech.before_first.open()
    assert [(await one).status_code for one in asking] == [200] * 3


async def test_who_holds_the_device_and_who_waits_for_it_is_told(world: World, server: Served) -> None:
    client = server.client
    world.repository.where, world.repository.memory_budget = "cpu", GIB
    gate = world.repository.script(TEXT).text.between.shut()
    writing = asyncio.create_task(client.post("/generate", json={"prompt": "one two"}))
    await gate.arrived()
    [device] = (await status(client))["devices"]
    assert (device["sharing"], device["holder"], device["waiting"]) == ("shared", "text", [])
    assert device["held_seconds"] >= 0
    hearing = asyncio.create_task(client.post("/transcribe", files=upload()))
    await until(lambda: any(resident.waits for resident in world.pool.residents()))
    [device] = (await status(client))["devices"]
    assert (device["sharing"], device["holder"], device["waiting"]) == ("exclusive", "text", ["speech"])
    gate.open()
    assert [(await one).status_code for one in (writing, hearing)] == [200, 200]
    [device] = (await status(client))["devices"]
    assert (device["sharing"], device["holder"], device["waiting"]) == ("shared", "speech", [])
    swap = device["last_swap"]
    assert device["swaps_total"] == 1
    assert swap.pop("at").endswith("Z")
    assert swap.pop("seconds") >= 0
    assert swap == {"from": "text", "to": "speech", "evicted": [TEXT], "suspended": [], "loaded": SPEECH}


async def test_a_model_that_waits_for_its_turn_is_told_as_suspended(tmp_path: Path) -> None:
    world = make_world(tmp_path, arbiter=DeviceArbiter(Sharing.EXCLUSIVE, max_hold=0.05))
    world.repository.where = "cpu"
    write, hear = (
        world.repository.script(TEXT).text.between.shut(),
        world.repository.script(SPEECH).speech.between.shut(),
    )
    world.repository.script(SPEECH).speech.segments = [segment(0, "one"), segment(1, " two")]
    async with in_process(world.app()) as client:
        writing = asyncio.create_task(client.post("/generate", json={"prompt": "one two"}))
        await write.arrived()
        hearing = asyncio.create_task(client.post("/transcribe", files=upload()))
        await hear.arrived()
        [device] = (await status(client))["devices"]
        assert (device["suspended"], device["waiting"], device["holder"]) == ([TEXT], ["text"], "speech")
        assert (device["last_swap"]["suspended"], device["in_use_by"]) == ([TEXT], ["speech"])
        models = {one["name"]: one for one in (await client.get("/memory-usage")).json()["models"]}
        assert (models[TEXT]["state"], models[TEXT]["in_flight"], models[TEXT]["bytes"]) == ("suspended", 1, None)
        listed = {one["id"]: one["status"] for one in (await client.get("/v1/models")).json()["data"]}
        assert (listed[TEXT], listed[SPEECH]) == ("loading", "loaded")
        write.open()
        hear.open()
        answers = [await one for one in (writing, hearing)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].json()["text"] == "one two"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_nobody_knows_is_404(client: httpx2.AsyncClient, method: str) -> None:
    for request_id in ("unknown", "r-0123456789abcdef"):
        path = f"/queue/cancel/{request_id}" if method == "POST" else f"/queue/status?request_id={request_id}"
        response = await client.request(method, path)
        assert (response.status_code, response.json()["code"]) == (404, "request_not_found")


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("/transcribe", SPEECH, {"files": upload()}),
    ("/transcribe", SPEECH, {"files": upload(), "data": {"stream": "true"}}),
    ("/detect-language", SPEECH, {"files": upload()}),
    ("/v1/audio/transcriptions", SPEECH, {"files": upload(), "data": {"model": SPEECH}}),
    ("/generate", TEXT, {"json": {"prompt": "one two"}}),
    ("/api/generate", TEXT, {"json": {"model": TEXT, "prompt": "one two"}}),
]


@pytest.mark.parametrize(("path", "model", "call"), CALLS)
async def test_a_request_that_waits_can_be_cancelled(
    world: World, server: Served, path: str, model: str, call: dict[str, Any]
) -> None:
    script = world.repository.script(model)
    gate = (script.speech if model == SPEECH else script.text).before_first.shut()
    asking = asyncio.create_task(server.client.post(path, headers={"x-request-id": "mine"}, **call))
    await gate.arrived()
    response = await server.client.post("/queue/cancel/mine")
    assert (response.status_code, response.json()) == (
        202,
        {"request_id": "mine", "status": "cancelling", "state": "queued"},
    )
    answer = await asking
    assert answer.status_code == 499
    if path.startswith("/v1"):
        assert answer.json()["error"]["code"] == "request_cancelled"
    elif path.startswith("/api"):
        assert answer.json() == {"error": "request canceled"}
    else:
        assert answer.json()["code"] == "request_cancelled"
    await until(lambda: world.pool.residents()[0].in_flight == 0)
    assert (await status(server.client))["cancelled_total"] == 1
    assert world.uploads == []


async def test_a_stream_under_way_is_told_that_it_was_cancelled(world: World, server: Served) -> None:
    gate = world.repository.script(SPEECH).speech.between.shut()
    call: dict[str, Any] = {"files": upload(), "data": {"stream": "true"}, "headers": {"x-request-id": "mine"}}
    async with server.client.stream("POST", "/transcribe", **call) as response:
        await gate.arrived()
        assert (await server.client.post("/queue/cancel/mine")).json()["state"] == "running"
        lines = [line async for line in response.aiter_lines()]
    last = orjson.loads(lines[-2].removeprefix("data: "))
    assert (last["type"], last["status"], last["code"]) == ("error", 499, "request_cancelled")
    audio = world.repository.speech(SPEECH).heard[-1].audio
    await until(lambda: not audio.parent.exists())
    assert (await server.client.post("/queue/cancel/mine")).status_code == 404


async def test_a_neighbour_of_a_cancelled_request_gets_its_answer(world: World, server: Served) -> None:
    gate = world.repository.script(SPEECH).speech.between.shut()
    asking = [
        asyncio.create_task(server.client.post("/transcribe", files=upload(), headers={"x-request-id": name}))
        for name in ("a", "b")
    ]
    await gate.arrived(2)
    await server.client.post("/queue/cancel/a")
    assert (await asking[0]).status_code == 499
    gate.open()
    assert (await asking[1]).json()["text"] == "Hello world. How are you?"


async def test_a_request_that_gets_no_model_was_not_admitted() -> None:
    requests = RequestsInFlight(LoopClock())
    with requests.entered(Task.TEXT, TEXT, "a"):
        [standing] = requests.standings()
    assert (standing.position, standing.eta_seconds, standing.is_queued) == (1, None, True)
    assert requests.standing_of("a") is None
    assert (requests.admitted, requests.processed) == (0, 0)
