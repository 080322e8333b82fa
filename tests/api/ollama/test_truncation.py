"""Prompts that are too long: cut where the request allows it, and said so."""

from typing import Any

import httpx2
import pytest

from domain.generation import GenerationRequest
from domain.prompt import Chat, Message, Role, TokenIds
from tests.api.ollama.asking import lines_of, refused, whole
from tests.api.world import TEXT, World
from tests.fakes.text_model import token_id

WORDS = [f"w{number}" for number in range(30)]
LONG = " ".join(WORDS)
EXCEEDED = "the input length exceeds the context length"


def last_request(world: World) -> GenerationRequest:
    return world.repository.text(TEXT).requests[-1]


def turn(role: str, size: int) -> dict[str, str]:
    return {"role": role, "content": " ".join(f"{role}{size}" for _ in range(size))}


async def test_the_oldest_tokens_go_but_the_first_ones(world: World, client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": LONG, "options": {"num_ctx": 10, "num_keep": 3}, "stream": False}
    response = await client.post("/api/generate", json=body)
    answer = whole(response)
    assert response.headers["x-truncated"] == "true"
    ids = [token_id(WORDS[0]), *(token_id(f" {word}") for word in WORDS[1:])]
    # The chat is told too, so that thinking and calls in the answer are still known for what they are.
    chat = Chat((Message(Role.USER, LONG),))
    assert last_request(world).prompt == TokenIds((*ids[:3], *ids[-6:]), chat)
    assert answer["prompt_eval_count"] == 9


async def test_the_whole_prompt_is_kept_as_far_as_it_fits(world: World, client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": LONG, "options": {"num_ctx": 10, "num_keep": -1}, "stream": False}
    assert (await client.post("/api/generate", json=body)).headers["x-truncated"] == "true"
    ids = [token_id(WORDS[0]), *(token_id(f" {word}") for word in WORDS[1:])]
    prompt = last_request(world).prompt
    assert isinstance(prompt, TokenIds)
    assert prompt.ids == (*ids[:8], ids[-1])


async def test_whole_oldest_messages_go_but_no_system_message_and_not_the_last(
    world: World, client: httpx2.AsyncClient
) -> None:
    sizes = [("user", 5), ("system", 2), ("assistant", 5), ("user", 4), ("assistant", 3), ("user", 4)]
    body = {"model": TEXT, "messages": [turn(*size) for size in sizes], "options": {"num_ctx": 14}}
    response = await client.post("/api/chat", json=body)
    assert lines_of(response)[-1]["prompt_eval_count"] == 13
    assert response.headers["x-truncated"] == "true"
    prompt = last_request(world).prompt
    assert isinstance(prompt, Chat)
    assert [message.role for message in prompt.messages] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]
    assert [len(message.content.split()) for message in prompt.messages] == [2, 4, 3, 4]


@pytest.mark.parametrize(
    "messages",
    [[turn("user", 30)], [turn("system", 30), turn("user", 1)], [turn("user", 3), turn("system", 9), turn("user", 2)]],
)
async def test_what_must_stay_and_does_not_fit_is_refused(
    client: httpx2.AsyncClient, messages: list[dict[str, str]]
) -> None:
    body = {"model": TEXT, "messages": messages, "options": {"num_ctx": 10}}
    refused(await client.post("/api/chat", json=body), 400, EXCEEDED)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": LONG}),
        ("/api/chat", {"messages": [turn("user", 8), turn("user", 8)]}),
    ],
)
async def test_without_truncation_too_much_is_an_error(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    asked = {"model": TEXT, **body, "truncate": False, "options": {"num_ctx": 10}}
    refused(await client.post(path, json=asked), 400, EXCEEDED)


async def test_what_fits_is_neither_cut_nor_encoded_twice(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/generate", json={"model": TEXT, "prompt": "a b", "stream": False})
    assert "x-truncated" not in response.headers
    assert len(world.repository.text(TEXT).requests) == 1


async def test_a_cut_prompt_with_keep_alive_0_loads_its_model_once(world: World, client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": LONG, "options": {"num_ctx": 10}, "keep_alive": 0, "stream": False}
    whole(await client.post("/api/generate", json=body))
    assert world.repository.count_loads(TEXT) == 1


async def test_the_native_form_truncates_only_when_asked(world: World, client: httpx2.AsyncClient) -> None:
    body = {"model": TEXT, "prompt": LONG, "options": {"num_ctx": 10}}
    response = await client.post("/generate", json=body)
    assert (response.status_code, response.json()["code"]) == (400, "context_length_exceeded")
    response = await client.post("/generate", json={**body, "truncate": True})
    assert (response.status_code, response.headers["x-truncated"]) == (200, "true")
