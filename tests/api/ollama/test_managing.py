"""POST /api/pull, /api/create, /api/copy, DELETE /api/delete."""

import asyncio
from typing import Any

import httpx2
import pytest

from domain.errors import DownloadFailed, InsufficientStorage
from domain.library import PullProgress, PullStage
from domain.preset import Preset
from domain.prompt import Message, Role
from tests.api.ollama.asking import USER, lines_of, refused, whole
from tests.api.world import TEXT, World
from tests.fakes.models import text_spec

NEW = "new:1b"
DIGEST = "1d" * 32


@pytest.fixture(autouse=True)
def _catalogue(world: World) -> None:
    world.library.pullable[NEW] = text_spec(NEW)


async def test_a_pull_tells_how_far_it_is(client: httpx2.AsyncClient) -> None:
    records = lines_of(await client.post("/api/pull", json={"model": NEW}))
    assert records == [
        {"status": "pulling manifest"},
        {"status": f"pulling {DIGEST[:12]}", "digest": f"sha256:{DIGEST}", "total": 10, "completed": 4},
        {"status": f"pulling {DIGEST[:12]}", "digest": f"sha256:{DIGEST}", "total": 10, "completed": 10},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]


async def test_a_pull_without_a_stream_tells_the_end(client: httpx2.AsyncClient) -> None:
    for _ in range(2):
        answer = whole(await client.post("/api/pull", json={"name": NEW, "stream": False, "insecure": True}))
        assert answer == {"status": "success"}


async def test_progress_comes_at_most_ten_times_a_second(world: World, client: httpx2.AsyncClient) -> None:
    world.library.steps[NEW] = [PullProgress(PullStage.FILES, "weights", done, 1000, DIGEST) for done in range(0, 1001)]
    records = lines_of(await client.post("/api/pull", json={"model": NEW}))
    told = [record["completed"] for record in records if "completed" in record]
    assert told == sorted(told)
    assert told[0] == 0 and told[-1] == 1000
    assert len(told) < 100


async def test_a_model_that_is_here_is_a_success_at_once(client: httpx2.AsyncClient) -> None:
    assert lines_of(await client.post("/api/pull", json={"model": TEXT})) == [{"status": "success"}]


async def test_what_cannot_be_pulled_has_its_status_before_the_stream(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/pull", json={"model": "nobody"})
    refused(response, 404, "pull model manifest: file does not exist")
    refused(await client.post("/api/pull", json={}), 400, "model is required")
    for name in ("../etc", "a b", "a:b:c"):
        refused(await client.post("/api/pull", json={"model": name}), 400, "invalid model name")
    world.library.steps[NEW] = []
    world.library.failures.append(InsufficientStorage("no room on the disk"))
    refused(await client.post("/api/pull", json={"model": NEW}), 507, "no room on the disk")


async def test_a_pull_that_fails_on_its_way_ends_with_an_error_line(world: World, client: httpx2.AsyncClient) -> None:
    world.library.failures.append(DownloadFailed("the hash does not match"))
    records = lines_of(await client.post("/api/pull", json={"model": NEW}))
    assert records[-1] == {"error": "the hash does not match"}
    world.library.failures.append(DownloadFailed("the hash does not match"))
    response = await client.post("/api/pull", json={"model": NEW, "stream": False})
    refused(response, 502, "the hash does not match")


async def test_a_model_is_made_from_another(world: World, client: httpx2.AsyncClient) -> None:
    body = {
        "model": "mario",
        "from": TEXT,
        "system": "you are Mario",
        "parameters": {"temperature": 0.2, "stop": ["a", "b"], "num_ctx": 100},
        "messages": [{"role": "user", "content": "hello"}],
        "license": ["MIT", "mine"],
    }
    records = lines_of(await client.post("/api/create", json=body))
    statuses = [record["status"] for record in records]
    assert statuses[0].startswith("using existing layer sha256:")
    assert statuses[1:] == ["creating system layer", "writing manifest", "success"]
    made = world.repository.find("mario")
    assert made.preset == Preset(
        "you are Mario",
        (("num_ctx", 100), ("stop", ("a", "b")), ("temperature", 0.2)),
        (Message(Role.USER, "hello"),),
        parent=TEXT,
    )
    assert made.licence == "MIT\nmine"
    assert lines_of(await client.post("/api/chat", json={"model": "mario", "messages": USER}))[-1]["done"]
    request = world.repository.text("mario").requests[-1]
    assert (request.sampling.temperature, request.num_ctx) == (0.2, 100)


@pytest.mark.parametrize(
    ("wish", "status", "text"),
    [
        ({}, 400, "neither 'from' or 'files' was specified"),
        ({"from": TEXT, "files": {"a": "b"}}, 400, "not supported"),
        ({"from": TEXT, "adapters": {"a": "b"}}, 400, "not supported"),
        ({"from": TEXT, "quantize": "q4_0"}, 400, "not supported"),
        ({"from": "nobody"}, 404, "model 'nobody' not found"),
        ({"from": TEXT, "template": "{{ range .Messages }}"}, 400, "template not supported"),
        ({"from": TEXT, "parameters": {"top_k": "x"}}, 400, 'option "top_k" must be of type integer'),
        ({"from": TEXT, "parameters": {"top_p": 7}}, 400, "top_p must be between 0 and 1"),
        ({"from": TEXT, "model": "a b"}, 400, "invalid model name"),
        ({"from": TEXT, "model": ""}, 400, "model is required"),
        ({"from": TEXT, "license": 5}, 400, "license must be a string or a list of strings"),
    ],
)
async def test_what_cannot_be_made_is_refused(
    client: httpx2.AsyncClient, wish: dict[str, Any], status: int, text: str
) -> None:
    refused(await client.post("/api/create", json={"model": "mario", **wish}), status, text)


async def test_a_copy_is_a_second_name(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/copy", json={"source": TEXT, "destination": "twin"})
    assert (response.status_code, response.content) == (200, b"")
    assert world.repository.find("twin").size_bytes == world.repository.find(TEXT).size_bytes


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"source": "x", "destination": "y"}, 404, 'model "x" not found'),
        ({"source": TEXT, "destination": "a b"}, 400, "invalid model name"),
        ({"source": TEXT}, 400, "model is required"),
        ({"destination": "y"}, 400, "model is required"),
    ],
)
async def test_what_cannot_be_copied_is_refused(
    client: httpx2.AsyncClient, body: dict[str, Any], status: int, text: str
) -> None:
    refused(await client.post("/api/copy", json=body), status, text)


async def test_a_copy_does_not_take_the_name_of_the_catalogue(client: httpx2.AsyncClient) -> None:
    for name in (NEW, "qwen-model_full"):
        response = await client.post("/api/copy", json={"source": TEXT, "destination": name})
        assert response.status_code == 409


async def test_a_deleted_model_is_gone(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.request("DELETE", "/api/delete", json={"model": TEXT})
    assert (response.status_code, response.content) == (200, b"")
    refused(await client.request("DELETE", "/api/delete", json={"name": TEXT}), 404, f"model '{TEXT}' not found")
    refused(await client.request("DELETE", "/api/delete", json={}), 400, "model is required")


async def test_a_model_in_use_is_not_deleted(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    answering = asyncio.create_task(client.post("/api/chat", json={"model": TEXT, "messages": USER}))
    await gate.arrived()
    response = await client.request("DELETE", "/api/delete", json={"model": TEXT})
    refused(response, 409, f"model '{TEXT}' is in use")
    gate.open()
    assert lines_of(await answering)[-1]["done"]
