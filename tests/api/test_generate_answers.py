"""What an answer of /generate holds, in both forms."""

import asyncio

import httpx2
import pytest

from api.services import Limits
from application.answer_query import AnswerQuery
from domain.errors import DeadlineExceeded
from domain.prompt import Chat
from tests.api.world import TEXT, World, in_process


def prompt_text(world: World) -> str:
    prompt = world.repository.text(TEXT).requests[-1].prompt
    assert isinstance(prompt, Chat)
    return prompt.messages[-1].content


async def test_an_analysis_tells_everything_that_its_callers_expect(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.chunks = ["No", ". It", " is fine."]
    response = await client.post("/generate", json={"query": "Is this a threat?", "context": ["one", "two"]})
    body = response.json()
    assert body["success"] is True
    assert body["error"] is None
    assert body["result"] == "No. It is fine."
    assert (body["model_id"], body["resolved_model"]) == ("qwen-model_full", TEXT)
    assert set(body["memory_usage"]) == {"rss_mb", "vms_mb", "percent", "loaded_models_count"}
    assert body["memory_usage"]["loaded_models_count"] == 1
    assert body["finish_reason"] == "stop"
    assert body["context_used"] == 2
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    assert {"queue_ms", "load_ms", "prompt_ms", "eval_ms", "total_ms", "tokens_per_second"} == set(body["timings"])
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["processing_time"] >= 0
    assert response.headers["x-queue-position"] == "0"
    assert response.headers["x-queue-wait-ms"] == "0"


async def test_the_template_is_filled_in_one_pass(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", json={"query": "{context} {query} {x}", "context": ["{query}", "b"]})
    assert prompt_text(world) == "Context:\n{query}\n\nb\n\nQuery: {context} {query} {x}\n\nAnswer:"
    await client.post("/generate", json={"query": "just {this}", "context": []})
    assert prompt_text(world) == "just {this}"


async def test_another_template_takes_its_place(world: World) -> None:
    answer = AnswerQuery(world.services.generate, "Contexto:\n{context}\n\nPergunta: {query}\n\nResposta:")
    async with in_process(world.app(answer=answer)) as client:
        await client.post("/generate", json={"query": "sim?", "context": ["à"]})
    assert prompt_text(world) == "Contexto:\nà\n\nPergunta: sim?\n\nResposta:"


@pytest.mark.parametrize("template", ["{context}", "{query}", "", "{contexts} {query}"])
def test_a_template_without_both_places_is_refused(world: World, template: str) -> None:
    with pytest.raises(ValueError, match="must hold both"):
        AnswerQuery(world.services.generate, template)


async def test_an_analysis_has_its_own_defaults(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", json={"query": "Why?"})
    asked = world.repository.text(TEXT).requests[-1]
    assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0.7, 512)
    assert (asked.sampling.top_k, asked.sampling.top_p) == (0, 1.0)
    assert asked.timeout_seconds == 30.0


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_truncate_drops_passages_from_the_end_until_the_prompt_fits(
    world: World, client: httpx2.AsyncClient, kept: int
) -> None:
    short, long = "a b c", "word " * 5000
    passages = [short] * kept + [long] + [short] * (3 - kept)
    response = await client.post("/generate", json={"query": "Why?", "context": passages, "truncate": True})
    assert response.status_code == 200
    assert response.json()["context_used"] == kept
    assert response.headers["x-truncated"] == "true"
    assert "word" not in prompt_text(world)


async def test_what_fits_is_not_truncated(client: httpx2.AsyncClient) -> None:
    response = await client.post("/generate", json={"query": "Why?", "context": ["a", "b"], "truncate": True})
    assert response.json()["context_used"] == 2
    assert "x-truncated" not in response.headers


async def test_a_prompt_that_leaves_room_for_one_token_fits(client: httpx2.AsyncClient) -> None:
    around = len(["Context:", "Query:", "Why?", "Answer:"])
    for words, kept in ((4096 - 1 - around, 1), (4096 - around, 0)):
        body = {"query": "Why?", "context": ["w " * words], "truncate": True}
        assert (await client.post("/generate", json=body)).json()["context_used"] == kept


async def test_overflow_is_an_error_that_names_both_numbers(client: httpx2.AsyncClient) -> None:
    long = "word " * 5000
    for body in ({"query": "Why?", "context": [long]}, {"prompt": long}, {"query": long, "truncate": True}):
        response = await client.post("/generate", json=body)
        assert (response.status_code, response.json()["code"]) == (400, "context_length_exceeded")
        assert response.json()["context_length"] == 4096
        assert response.json()["prompt_tokens"] >= 5000


async def test_a_completion_has_the_record_of_ollama_and_more(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.chunks = ["Olá", "!"]
    world.repository.script(TEXT).text.cached_tokens = 1
    response = await client.post("/generate", json={"model": "TINY:1b", "prompt": "Say hello"})
    body = response.json()
    assert (body["model"], body["resolved_model"]) == ("TINY:1b", TEXT)
    assert (body["response"], body["done"], body["done_reason"]) == ("Olá!", True, "stop")
    assert len(body["context"]) == 4
    assert body["prompt_eval_count"] == 2
    assert body["prompt_eval_cached_count"] == 1
    assert body["eval_count"] == 2
    assert body["total_duration"] >= body["load_duration"] > 0
    assert isinstance(body["eval_duration"], int)
    assert body["created_at"].endswith("Z")
    assert len(body["created_at"]) == len("2026-11-21T10:00:00.123456789Z")
    assert body["usage"]["total_tokens"] == 4
    assert body["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert b"\n" not in response.content


async def test_the_smallest_time_limit_wins(world: World, client: httpx2.AsyncClient) -> None:
    await client.post("/generate", json={"prompt": "a"})
    await client.post("/generate", json={"prompt": "a", "timeout": 7})
    await client.post("/generate", json={"prompt": "a", "timeout": 7}, headers={"x-request-timeout": "2.5"})
    await client.post("/generate", json={"prompt": "a", "timeout": 5000})
    limits = [asked.timeout_seconds for asked in world.repository.text(TEXT).requests]
    assert limits == [600.0, 7.0, 2.5, 600.0]


async def test_the_ceilings_of_the_operator_bind_both_forms(world: World) -> None:
    limits = Limits(generation_seconds=9.0, new_tokens=2)
    async with in_process(world.app(limits=limits)) as client:
        for body in ({"query": "one two three"}, {"prompt": "one two three", "max_tokens": 100}):
            response = await client.post("/generate", json=body)
            assert response.json()["usage"]["completion_tokens"] == 2
    assert [asked.timeout_seconds for asked in world.repository.text(TEXT).requests] == [9.0, 9.0]


async def test_a_deadline_before_the_first_token_is_504(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(TEXT).text.error = DeadlineExceeded()
    for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {"query": "a"}):
        response = await client.post("/generate", json=body)
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")


async def test_a_request_that_waits_says_how_many_were_before_it(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(TEXT).text.before_first.shut()
    first = asyncio.create_task(client.post("/generate", json={"prompt": "a"}))
    await gate.arrived()
    second = asyncio.create_task(client.post("/generate", json={"prompt": "b"}))
    await gate.arrived(2)
    gate.open()
    assert (await first).headers["x-queue-position"] == "0"
    assert (await second).headers["x-queue-position"] == "1"


async def test_keep_alive_is_in_every_spelling_of_go(world: World, client: httpx2.AsyncClient) -> None:
    for spelling in (600, 600.0, "10m", "600s", "600000ms"):
        await client.post("/generate", json={"prompt": "a", "keep_alive": spelling})
        [resident] = world.pool.residents()
        assert resident.expires_at is not None
        assert round(resident.expires_at - resident.last_used_at) == 600
    await client.post("/generate", json={"prompt": "a", "keep_alive": -1})
    assert world.pool.residents()[0].expires_at is None
