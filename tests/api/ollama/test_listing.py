"""GET /api/tags, /api/ps, POST /api/show, and the small routes."""

from dataclasses import replace
from typing import Any

import httpx2
import pytest

from domain.errors import ModelLoadFailed, ModelNotFound
from domain.library import ModelDetails
from domain.model import Task, WeightFormat
from domain.preset import Preset
from domain.prompt import Message, Role
from tests.api.ollama.asking import PRESET, SKILLED, install, moment, refused, spec, whole
from tests.api.world import EMBEDDING, SPEECH, TEXT, World


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_what_clients_probe_answers_head_too(client: httpx2.AsyncClient, path: str) -> None:
    head, got = await client.head(path), await client.get(path)
    assert (head.status_code, got.status_code) == (200, 200)
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_small_routes(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/")).text == "Ollama is running"
    assert whole(await client.get("/api/version")) == {"version": "0.33.3"}
    assert whole(await client.get("/api/status")) == {"cloud": {"disabled": True, "source": "config"}}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/push", 501),
        ("POST", "/api/blobs/sha256:aa", 501),
        ("GET", "/api/me", 404),
        ("POST", "/api/me", 404),
        ("POST", "/api/signout", 404),
        ("DELETE", "/api/user/keys/abc", 404),
        ("POST", "/api/experimental/web_search", 404),
        ("GET", "/api/chat", 405),
        ("POST", "/api/tags", 405),
        ("POST", "/api/delete", 405),
    ],
)
async def test_what_is_not_here_is_refused_in_the_dialects_shape(
    client: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)
    assert response.headers["content-type"] == "application/json"


async def test_tags_lists_every_kind_of_model_the_newest_first(world: World, client: httpx2.AsyncClient) -> None:
    install(world, replace(spec("host/ns/deep", "tools"), parameters=494_032_768))
    models = whole(await client.get("/api/tags"))["models"]
    assert {model["name"] for model in models} == {TEXT, SPEECH, EMBEDDING, "host/ns/deep:latest"}
    newest = models[0]
    assert newest == {
        "name": "host/ns/deep:latest",
        "model": "host/ns/deep:latest",
        "modified_at": "2023-11-14T22:13:20.500000000Z",
        "size": 1 << 30,
        "digest": "ab" * 32,
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": "tiny",
            "families": ["tiny"],
            "parameter_size": "494.03M",
            "quantization_level": "Q4_K_M",
            "context_length": 4096,
            "embedding_length": 64,
        },
        "capabilities": ["completion", "tools"],
    }


async def test_a_model_whose_files_cannot_be_read_does_not_hide_the_others(
    world: World, client: httpx2.AsyncClient
) -> None:
    world.library.details_failures[TEXT] = ModelLoadFailed("it is damaged")
    models = whole(await client.get("/api/tags"))["models"]
    assert len(models) == 3
    damaged = next(model for model in models if model["name"] == TEXT)
    assert (damaged["details"]["family"], damaged["details"]["quantization_level"]) == ("tiny", "")


async def test_ps_shows_what_is_in_memory_the_longest_remaining_first(world: World, client: httpx2.AsyncClient) -> None:
    assert whole(await client.get("/api/ps")) == {"models": []}
    for name, keep_alive in ((TEXT, 60), (EMBEDDING, 600), (SPEECH, -1)):
        await world.pool.load(name, keep_alive=float("inf") if keep_alive < 0 else keep_alive)
    models = whole(await client.get("/api/ps"))["models"]
    assert [model["name"] for model in models] == [SPEECH, EMBEDDING, TEXT]
    text = models[-1]
    assert set(text) == {
        "name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length",
    }  # fmt: skip
    assert (text["size"], text["size_vram"], text["context_length"]) == (1 << 30, 0, 4096)


async def test_a_model_in_use_expires_its_keep_alive_from_now(world: World, client: httpx2.AsyncClient) -> None:
    async with world.pool.lend(TEXT, Task.TEXT, keep_alive=90.0):
        (model,) = whole(await client.get("/api/ps"))["models"]
        assert moment(model["expires_at"]) - world.services.clock.now() == pytest.approx(90, abs=1.0)


async def test_show_tells_what_a_model_is(world: World, client: httpx2.AsyncClient) -> None:
    messages = (Message(Role.USER, "hello"), Message(Role.ASSISTANT, "good day"))
    preset = Preset("be polite", (("stop", ("a", "b")), ("temperature", 0.1)), messages, parent=TEXT)
    install(world, spec(PRESET, "tools", preset=preset))
    answer = whole(await client.post("/api/show", json={"model": PRESET}))
    assert answer["parameters"].splitlines() == [
        f'{"stop":<30} "a"',
        f'{"stop":<30} "b"',
        f"{'temperature':<30} 0.1",
    ]
    assert (answer["system"], answer["template"]) == ("be polite", "{{ messages }}")
    assert answer["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
    ]
    assert answer["capabilities"] == ["completion", "tools"]
    assert answer["details"]["parent_model"] == TEXT
    assert answer["model_info"] == {
        "general.architecture": "tiny",
        "general.basename": "polite:latest for tests",
        "general.parameter_count": 1_000_000,
        "tiny.context_length": 4096,
        "tiny.embedding_length": 64,
        "tiny.block_count": 2,
        "tiny.vocab_size": 3,
    }
    assert 'SYSTEM """be polite"""' in answer["modelfile"]
    assert answer["modelfile"].startswith(f"FROM {PRESET}\n")


async def test_a_model_of_another_server_is_shown_as_far_as_it_is_known(
    world: World, client: httpx2.AsyncClient, log: list[Any]
) -> None:
    install(world, replace(spec(SKILLED), format=WeightFormat.REMOTE))
    world.library.details_failures[SKILLED] = ModelNotFound(SKILLED)
    for verbose in (False, True):
        answer = whole(await client.post("/api/show", json={"model": SKILLED, "verbose": verbose}))
        info = answer["model_info"]
        assert (info["general.architecture"], info["tiny.context_length"]) == ("tiny", 4096)
    assert not [entry for entry in log if entry["log_level"] == "warning"]


async def test_show_with_verbose_adds_the_vocabulary(client: httpx2.AsyncClient) -> None:
    info = whole(await client.post("/api/show", json={"name": TEXT, "verbose": True}))["model_info"]
    assert info["tokenizer.ggml.tokens"] == ["<s>", "hello", "world"]


async def test_show_puts_the_callers_system_and_options_in_place_of_its_own(client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "system": "be brief", "options": {"top_k": 3}}
    answer = whole(await client.post("/api/show", json=body))
    assert (answer["system"], answer["parameters"]) == ("be brief", f"{'top_k':<30} 3")


@pytest.mark.parametrize("name", [SPEECH, EMBEDDING])
async def test_model_info_is_an_object_for_every_kind(world: World, client: httpx2.AsyncClient, name: str) -> None:
    specs = {one.id: one for one in world.repository.specs}
    world.library.details_of[name] = ModelDetails(specs[name])
    info = whole(await client.post("/api/show", json={"model": name}))["model_info"]
    assert {"general.architecture", "general.basename", "general.parameter_count"} <= info.keys()


async def test_show_of_nothing_and_of_nobody(client: httpx2.AsyncClient) -> None:
    refused(await client.post("/api/show", json={}), 400, "model is required")
    refused(await client.post("/api/show", json={"name": "nobody"}), 404, "model 'nobody' not found")
