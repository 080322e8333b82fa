"""The official `openai` client against a running server: its answers must validate strictly."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam

from domain.errors import GenerationFailed, ModelLoadFailed, Overloaded
from domain.model import Task
from domain.prompt import Chat
from domain.tools import ToolCall
from tests.api.test_disconnects import closing_one
from tests.api.world import EMBEDDING, TEXT, Served, World
from tests.fakes.models import text_spec

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three"}]
TOOLS: list[ChatCompletionToolParam] = [{"type": "function", "function": {"name": "weather", "strict": True}}]


def options(server: Served) -> dict[str, Any]:
    return {
        "base_url": f"http://{server.host}:{server.port}/v1",
        "api_key": "anything",
        "_strict_response_validation": True,
    }


@pytest.fixture
async def client(server: Served) -> AsyncGenerator[AsyncOpenAI, None]:
    async with AsyncOpenAI(**options(server)) as client:
        yield client


def joined(chunks: Sequence[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_a_chat_in_one_piece(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=TEXT, messages=MESSAGES, seed=1, extra_body={"top_k": 5})
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("one two three", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)
    assert answer.usage.prompt_tokens_details is not None


async def test_a_chat_as_a_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=TEXT, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert joined(chunks) == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


async def test_the_synchronous_client_sees_the_same(server: Served) -> None:
    def talk() -> tuple[str | None, str, list[str]]:
        with OpenAI(**options(server)) as client:
            whole = client.chat.completions.create(model=TEXT, messages=MESSAGES)
            chunks = list(client.chat.completions.create(model=TEXT, messages=MESSAGES, stream=True))
            return whole.choices[0].message.content, joined(chunks), [model.id for model in client.models.list()]

    whole, streamed, models = await asyncio.to_thread(talk)
    assert whole == streamed == "one two three"
    assert models[0] == TEXT


async def test_the_stream_helper_assembles_the_answer(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=TEXT, messages=MESSAGES) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "one two three"


async def test_leaving_the_iterator_early_frees_the_place(world: World, client: AsyncOpenAI) -> None:
    gate = world.repository.script(TEXT).text.between.shut()
    stream = await client.chat.completions.create(model=TEXT, messages=MESSAGES, stream=True)
    async with closing_one(world, TEXT):
        async for chunk in stream:
            if chunk.choices[0].delta.content == "one":
                break
        await gate.arrived()
        await stream.close()


async def test_models_are_listed_and_found_by_names_with_slashes(world: World, client: AsyncOpenAI) -> None:
    world.repository.specs.append(text_spec("host/ns/deep:7b"))
    assert (await client.models.retrieve("host/ns/deep:7b")).id == "host/ns/deep:7b"
    listed = [model async for model in client.models.list()]
    assert "qwen-model_full" in [model.id for model in listed]
    assert {model.owned_by for model in listed} == {"ingle"}


async def test_the_raw_response_carries_the_request_id(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model=TEXT, messages=MESSAGES)
    assert raw.headers["x-request-id"].startswith("r-")
    assert raw.parse()._request_id == raw.headers["x-request-id"]


async def test_an_unknown_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'nobody' not found") as caught:
        await client.chat.completions.create(model="nobody", messages=MESSAGES, stream=True)
    assert (caught.value.code, caught.value.type) == ("model_not_found", "not_found_error")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_a_wrong_value_is_a_bad_request_that_names_its_field(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=TEXT, messages=MESSAGES, temperature=3)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")


async def test_a_failed_load_is_asked_for_once(world: World, client: AsyncOpenAI) -> None:
    world.repository.script(TEXT).load_failures.append(ModelLoadFailed("it is damaged"))
    with pytest.raises(openai.InternalServerError, match="it is damaged"):
        await client.chat.completions.create(model=TEXT, messages=MESSAGES)
    assert world.repository.count_loads(TEXT) == 1


async def test_a_full_queue_may_be_tried_again(world: World, client: AsyncOpenAI) -> None:
    world.repository.script(TEXT).text.error = Overloaded()
    with pytest.raises(openai.InternalServerError, match="busy") as caught:
        await client.with_options(max_retries=0).chat.completions.create(model=TEXT, messages=MESSAGES)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["x-should-retry"] == "true"


async def test_an_error_in_a_stream_is_raised(world: World, client: AsyncOpenAI) -> None:
    script = world.repository.script(TEXT).text
    script.error, script.error_after = GenerationFailed("the step failed"), 2
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError, match="the step failed"):
        async for chunk in await client.chat.completions.create(model=TEXT, messages=MESSAGES, stream=True):
            chunks.append(chunk)
    assert joined(chunks) == "one two"


async def test_calls_of_tools_are_typed_in_one_piece_and_as_a_stream(world: World, client: AsyncOpenAI) -> None:
    script = world.repository.script(TEXT).text
    script.chunks = ["I look."]
    script.tool_calls = (
        ToolCall("call_aaaaaaaa", "weather", '{"city": "Lisbon"}'),
        ToolCall("call_bbbbbbbb", "weather", '{"city": "Porto"}'),
    )
    wish: dict[str, Any] = {"model": TEXT, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required"}
    (choice,) = (await client.chat.completions.create(**wish)).choices
    assert choice.finish_reason == "tool_calls"
    assert [call.id for call in choice.message.tool_calls or ()] == ["call_aaaaaaaa", "call_bbbbbbbb"]
    async with client.chat.completions.stream(**wish) as stream:
        streamed = (await stream.get_final_completion()).choices[0].message
    assert streamed.content == "I look."
    assert [(call.id, call.function.arguments) for call in streamed.tool_calls or ()] == [
        ("call_aaaaaaaa", '{"city": "Lisbon"}'),
        ("call_bbbbbbbb", '{"city": "Porto"}'),
    ]


async def test_an_answer_can_be_sent_back_as_it_came(world: World, client: AsyncOpenAI) -> None:
    script = world.repository.script(TEXT).text
    script.thinking, script.tool_calls = "hm", (ToolCall("call_aaaaaaaa", "weather", "{}"),)
    answer = await client.chat.completions.create(model=TEXT, messages=MESSAGES, tools=TOOLS)
    told: Any = [
        *MESSAGES,
        answer.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": "call_aaaaaaaa", "content": "sunny"},
    ]
    script.tool_calls = ()
    again = await client.chat.completions.create(model=TEXT, messages=told, tools=TOOLS)
    assert again.choices[0].message.content == "sunny"
    prompt = world.repository.text(TEXT).requests[-1].prompt
    assert isinstance(prompt, Chat)
    assert (prompt.messages[1].thinking, prompt.messages[2].tool_name) == ("hm", "weather")


async def test_completions_are_typed_in_one_piece(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=TEXT, prompt=["a b", "c"], n=2, logprobs=1)
    assert [choice.text for choice in answer.choices] == ["a b", "a b", "c", "c"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


async def test_completions_stream_several_choices(server: Served) -> None:
    # The strict client has no null for the finish reason of a choice that goes on, which the format has.
    async with AsyncOpenAI(**{**options(server), "_strict_response_validation": False}) as client:
        stream = await client.completions.create(model=TEXT, prompt=["a b", "c"], stream=True)
        pieces = [(choice.index, choice.text) async for chunk in stream for choice in chunk.choices]
    assert "".join(text for index, text in pieces if index == 0) == "a b"
    assert "".join(text for index, text in pieces if index == 1) == "c"


async def test_embeddings_come_as_base64_unless_asked_otherwise(server: Served) -> None:
    # The strict client refuses the base64 that every client asks for of itself.
    async with AsyncOpenAI(**{**options(server), "_strict_response_validation": False}) as client:
        packed = await client.embeddings.create(model=EMBEDDING, input=["a", "b"])
    async with AsyncOpenAI(**options(server)) as client:
        plain = await client.embeddings.create(model=EMBEDDING, input=["a", "b"], encoding_format="float")
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert plain.usage.total_tokens == 6


async def test_models_are_deleted(world: World, client: AsyncOpenAI) -> None:
    world.repository.specs.append(text_spec("host/ns/deep:7b"))
    assert (await client.models.delete("host/ns/deep:7b")).deleted
    with pytest.raises(openai.NotFoundError):
        await client.models.delete("host/ns/deep:7b")
    async with world.pool.lend(TEXT, Task.TEXT):
        with pytest.raises(openai.ConflictError):
            await client.models.delete(TEXT)
