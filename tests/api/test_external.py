"""A model of another server behind every dialect: one Ingle passes requests on to another, over real sockets."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from application.answer_query import AnswerQuery
from application.embed_texts import EmbedTexts
from application.generate_text import GenerateText
from application.joined_repository import JoinedRepository
from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from domain.model import Task
from domain.tools import ToolCall
from infrastructure.providers.entry import ProvidedModel, ProviderEntry
from infrastructure.providers.repository import ProvidedModels
from tests.api.world import EMBEDDING, TEXT, World, in_process, make_world, serving, until
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents

KEY = "sk-canary-0123456789"
MESSAGES = [{"role": "user", "content": "one two three four"}]


def in_front_of(base_url: str, uploads: Path, **entry: Any) -> tuple[World, ProvidedModels]:
    """A world whose model `far` is the text model of the server at `base_url`, and `far-vector` its vectors."""
    provider = ProviderEntry("lab", base_url, KEY, **entry)
    text = ProvidedModel("far", TEXT, provider, context_length=4096, capabilities=("completion", "tools"))
    vectors = ProvidedModel("far-vector", EMBEDDING, provider, Task.EMBEDDING, 256, ("embedding",), dimensions=16)
    world = make_world(uploads)
    external = ProvidedModels([text, vectors], LoopClock())
    joined = JoinedRepository(world.repository, external, {"distant": "far"})
    clock, events = LoopClock(), RecordedEvents()
    pool = ModelPool(joined, clock, events)
    generate = GenerateText(pool, clock, events)
    services = replace(
        world.services,
        pool=pool,
        generate=generate,
        answer=AnswerQuery(generate),
        transcribe=TranscribeAudio(pool, clock, events),
        embed=EmbedTexts(pool, clock, events),
        providers=external,
    )
    return replace(world, pool=pool, events=events, services=services), external


@asynccontextmanager
async def two_servers(tmp_path: Path) -> AsyncGenerator[tuple[World, World, httpx2.AsyncClient], None]:
    """The world behind, the world in front, and a client of the one in front."""
    behind = make_world(tmp_path / "behind")
    async with serving(behind.app()) as far:
        front, external = in_front_of(f"http://{far.host}:{far.port}/v1", tmp_path / "front")
        async with serving(front.app()) as near:
            yield behind, front, near.client
        await front.pool.close()
        await external.close()


async def test_a_chat_reaches_the_server_behind_and_comes_back(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (behind, _, client):
        body = {"model": "far", "messages": MESSAGES, "temperature": 0, "seed": 7, "stop": ["four"]}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        [request] = behind.repository.text(TEXT).requests
    assert answer["choices"][0]["message"]["content"] == "one two three "
    assert answer["model"] == "far"
    assert answer["usage"]["completion_tokens"] == 4
    assert (request.sampling.temperature, request.sampling.seed, request.sampling.stop) == (0.0, 7, ("four",))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "far", "messages": MESSAGES, "stream": True}),
        ("/v1/chat/completions", {"model": "distant", "messages": MESSAGES, "stream": True}),
        ("/v1/completions", {"model": "far", "prompt": "one two three four", "stream": True}),
        ("/generate", {"model": "far", "prompt": "one two three four", "raw": True, "stream": True}),
        ("/generate", {"model": "far", "prompt": "one two three four", "stream": True}),
        ("/api/chat", {"model": "far", "messages": MESSAGES}),
        ("/api/generate", {"model": "far", "prompt": "one two three four", "raw": True}),
    ],
)
async def test_every_dialect_streams_what_comes_from_behind(path: str, body: dict[str, Any], tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (_, _, client), client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        text = (await response.aread()).decode()
    for word in ("one", " two", " three", " four"):
        assert f'"{word}"' in text


async def test_a_client_that_leaves_ends_the_work_behind(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (behind, front, client):
        behind.repository.script(TEXT).text.between.shut()
        body = {"model": "far", "messages": MESSAGES, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_raw())
        await until(lambda: all(resident.in_flight == 0 for resident in front.pool.residents()))
        await until(lambda: all(resident.in_flight == 0 for resident in behind.pool.residents()))
        assert [resident.spec.id for resident in behind.pool.residents()] == [TEXT]


async def test_what_the_provider_cannot_say_is_refused_by_name_before_it_is_asked(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (behind, _, client):
        body = {"model": "far", "messages": MESSAGES, "top_k": 3}
        answer = await client.post("/v1/chat/completions", json=body)
        assert behind.pool.residents() == []
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "top_k")


async def test_models_of_other_servers_are_listed_and_take_no_memory(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (_, front, client):
        listed = {model["id"] for model in (await client.get("/v1/models")).json()["data"]}
        await client.post("/v1/chat/completions", json={"model": "far", "messages": MESSAGES})
        [resident] = front.pool.residents()
    assert {"far", "far-vector", TEXT} <= listed
    assert resident.model is not None
    assert (resident.model.memory_bytes, resident.model.device) == (0, "remote")


async def test_the_status_tells_host_and_health_and_no_key(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (_, _, client):
        pages = [await client.get("/api/v1/providers/status"), await client.get("/v1/models")]
        pages += [await client.get("/system-info"), await client.get("/openapi.json")]
        by_name = {state["name"]: state for state in pages[0].json()["providers"]}
    assert all(KEY not in page.text for page in pages)
    assert set(by_name) == {"local", "lab", "llm", "whisperx", "openai"}
    assert by_name["local"]["status"] == "ok"
    assert by_name["llm"]["status"] == "not_configured"
    lab = by_name["lab"]
    assert (lab["base_url_host"], lab["status"], lab["circuit"], lab["models"]) == (
        "127.0.0.1",
        "ok",
        "closed",
        ["far", "far-vector"],
    )
    assert isinstance(lab["latency_ms"], int)


async def test_a_provider_that_is_not_there_is_503_in_every_dialect_and_down_in_the_status(tmp_path: Path) -> None:
    front, external = in_front_of("http://127.0.0.1:9/v1", tmp_path)
    async with in_process(front.app()) as client:
        answer = await client.post("/v1/chat/completions", json={"model": "far", "messages": MESSAGES})
        native = await client.post("/generate", json={"model": "far", "prompt": "hi", "raw": True})
        states = (await client.get("/api/v1/providers/status")).json()["providers"]
    await front.pool.close()
    await external.close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "provider_unavailable")
    assert (native.status_code, native.json()["code"]) == (503, "provider_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    [lab] = [state for state in states if state["name"] == "lab"]
    assert (lab["status"], lab["error_code"], lab["latency_ms"]) == ("down", "provider_unavailable", None)


async def test_tool_calls_come_back_whole(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    async with two_servers(tmp_path) as (behind, _, client):
        behind.repository.script(TEXT).text.tool_calls = (ToolCall("call_1", "weather", '{"city": "Lisboa"}'),)
        behind.repository.script(TEXT).text.thinking = "hm"
        body = {"model": "far", "messages": MESSAGES, "tools": [tool]}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
    message = answer["choices"][0]["message"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Lisboa"}'}
    assert message["tool_calls"][0]["id"] == "call_1"
    assert message["reasoning_content"] == "hm"


async def test_vectors_come_from_behind_and_are_the_same(tmp_path: Path) -> None:
    texts = [f"text number {number}" for number in range(70)]
    async with two_servers(tmp_path) as (behind, _, client):
        near = (await client.post("/v1/embeddings", json={"model": "far-vector", "input": texts})).json()
        far = await behind.services.embed.embed(EMBEDDING, texts)
    assert [entry["embedding"] for entry in near["data"]] == [
        pytest.approx(list(vector), abs=1e-6) for vector in far.embeddings.vectors
    ]
    assert near["usage"]["prompt_tokens"] == far.embeddings.total_tokens


async def test_log_probabilities_come_back(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (_, _, client):
        body = {"model": "far", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
        chat = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]
        plain = {"model": "far", "prompt": "one two", "logprobs": 2}
        text = (await client.post("/v1/completions", json=plain)).json()["choices"][0]
    assert [token["token"] for token in chat["logprobs"]["content"]] == ["one", " two", " three", " four"]
    assert len(chat["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert text["logprobs"]["tokens"] == ["one", " two"]
