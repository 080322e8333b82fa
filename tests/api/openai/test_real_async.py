"""The asynchronous official client against a real server: everything at once, and time that runs out."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.api.openai.test_real_model import ASK_WEATHER, EMBEDDING, MODEL, QUESTION, TOOLS

LONG: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Write a very long story about a lighthouse."}]

pytestmark = pytest.mark.weights(MODEL, EMBEDDING)


@pytest.fixture
async def client(url: str) -> AsyncGenerator[AsyncOpenAI, None]:
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="any", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


async def test_a_chat_a_stream_a_call_and_vectors_at_once(client: AsyncOpenAI) -> None:
    wish: dict[str, Any] = {"model": MODEL, "temperature": 0}

    async def streamed() -> str:
        stream = await client.chat.completions.create(**wish, messages=QUESTION, max_completion_tokens=12, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    whole, joined, called, vectors, completion = await asyncio.gather(
        client.chat.completions.create(**wish, messages=QUESTION, max_completion_tokens=12),
        streamed(),
        client.chat.completions.create(
            **wish, messages=ASK_WEATHER, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
        ),
        client.embeddings.create(model=EMBEDDING, input=["a cat", "a dog"], encoding_format="float"),
        client.completions.create(**wish, prompt="One, two, three,", max_tokens=6),
    )
    assert joined == whole.choices[0].message.content
    assert called.choices[0].finish_reason == "tool_calls"
    assert [len(item.embedding) for item in vectors.data] == [384, 384]
    assert "four" in completion.choices[0].text
    assert MODEL in [model.id async for model in client.models.list()]


async def test_a_client_whose_patience_ends_gets_its_own_timeout_and_the_server_goes_on(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.2).chat.completions.create(
            model=MODEL, messages=LONG, max_completion_tokens=2000, temperature=0
        )
    after = await client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=4)
    assert after.choices[0].finish_reason in ("stop", "length")


async def test_a_limit_of_time_in_the_request_ends_the_answer_with_what_there_is(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=LONG,
        max_completion_tokens=20_000,
        temperature=0,
        extra_headers={"X-Request-Timeout": "1"},
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens < 20_000
