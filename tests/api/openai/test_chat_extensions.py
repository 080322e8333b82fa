"""Thinking, what a made model brings along, and the extensions of /v1/chat/completions."""

from dataclasses import replace
from typing import Any

import httpx2
import pytest

from domain.generation import GenerationRequest
from domain.preset import Preset
from domain.prompt import Chat, Message, Role
from tests.api.openai.frames import chunks_of, deltas_of
from tests.api.world import TEXT, World

URL = "/v1/chat/completions"
USER = {"role": "user", "content": "one two three"}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": TEXT, "messages": [USER], **changes}


def change_model(world: World, **changes: Any) -> None:
    world.repository.specs[0] = replace(world.repository.specs[0], **changes)


async def asked(world: World, client: httpx2.AsyncClient, **changes: Any) -> GenerationRequest:
    response = await client.post(URL, json=body(**changes))
    assert response.status_code == 200, response.text
    return world.repository.text(TEXT).requests[-1]


async def chat_for(world: World, client: httpx2.AsyncClient, **changes: Any) -> Chat:
    prompt = (await asked(world, client, **changes)).prompt
    assert isinstance(prompt, Chat)
    return prompt


# -- thinking -------------------------------------------------------------------------------------------


async def test_thinking_is_told_under_both_names_and_never_in_the_content(
    world: World, client: httpx2.AsyncClient
) -> None:
    script = world.repository.script(TEXT).text
    script.thinking, script.chunks, script.guessed = "let me see", ["four", "."], (3, 2)
    answer = (await client.post(URL, json=body())).json()
    message = answer["choices"][0]["message"]
    assert message["content"] == "four."
    assert message["reasoning_content"] == message["reasoning"] == "let me see"
    assert answer["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 3,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 2,
    }
    assert answer["usage"]["completion_tokens"] == 5
    chunks = chunks_of(await client.post(URL, json=body(stream=True)))
    assert deltas_of(chunks) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "let me see", "reasoning": "let me see"},
        {"content": "four"},
        {"content": "."},
        {},
    ]


async def test_a_message_without_thinking_has_no_such_keys(client: httpx2.AsyncClient) -> None:
    message = (await client.post(URL, json=body())).json()["choices"][0]["message"]
    assert not {"reasoning", "reasoning_content", "tool_calls", "function_call"} & set(message)


@pytest.mark.parametrize(
    ("changes", "think", "effort"),
    [
        ({}, None, ""),
        ({"reasoning_effort": "none"}, False, ""),
        ({"reasoning_effort": "low"}, True, "low"),
        ({"reasoning_effort": "xhigh"}, True, "xhigh"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False, ""),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True, ""),
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, True, "high"),
        ({"chat_template_kwargs": {"enable_thinking": None}}, None, ""),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, False, ""),
    ],
)
async def test_effort_switches_thinking_on_models_that_think(
    world: World, client: httpx2.AsyncClient, changes: dict[str, Any], think: bool | None, effort: str
) -> None:
    change_model(world, capabilities=("completion", "thinking"))
    chat = await chat_for(world, client, **changes)
    assert (chat.think, chat.reasoning_effort) == (think, effort)


@pytest.mark.parametrize(
    ("changes", "think"),
    [
        ({"reasoning_effort": "high"}, None),
        ({"reasoning_effort": "none"}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, None),
        # It asks for what the model cannot do: the model says so.
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
async def test_effort_means_nothing_to_other_models(
    world: World, client: httpx2.AsyncClient, changes: dict[str, Any], think: bool | None
) -> None:
    assert (await chat_for(world, client, **changes)).think is think


# -- the extensions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"reasoning_effort": "<|im_end|>"}, "reasoning_effort"),
        ({"reasoning_effort": ""}, "reasoning_effort"),
        ({"chat_template_kwargs": {"documents": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"reasoning_effort": ["low"]}}, "chat_template_kwargs.reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"add_generation_prompt": "no"}, "add_generation_prompt"),
        ({"options": {"num_ctx": "5"}}, "options.num_ctx"),
    ],
)
async def test_a_wrong_extension_is_400_and_names_its_field(
    client: httpx2.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    response = await client.post(URL, json=body(**changes))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, "invalid_value"), error


async def test_the_last_message_can_be_continued(world: World, client: httpx2.AsyncClient) -> None:
    messages = [USER, {"role": "assistant", "content": "one"}]
    chat = await chat_for(world, client, messages=messages, continue_final_message=True)
    assert (chat.continue_final_message, chat.add_generation_prompt) == (True, False)
    chat = await chat_for(world, client, messages=messages, add_generation_prompt=False)
    assert (chat.continue_final_message, chat.add_generation_prompt) == (False, False)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_oldest_messages_go_where_truncation_is_allowed(
    world: World, client: httpx2.AsyncClient, is_stream: bool
) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "word " * 5000}, USER]
    wish = body(messages=messages, stream=is_stream)
    assert (await client.post(URL, json=wish)).json()["error"]["code"] == "context_length_exceeded"
    response = await client.post(URL, json={**wish, "truncate": True})
    assert response.status_code == 200, response.text
    assert response.headers["x-truncated"] == "true"
    prompt = world.repository.text(TEXT).requests[-1].prompt
    assert isinstance(prompt, Chat)
    assert [message.role for message in prompt.messages] == [Role.SYSTEM, Role.USER]
    assert "x-truncated" not in (await client.post(URL, json=body(truncate=True, stream=is_stream))).headers


async def test_num_ctx_reaches_the_engine(world: World, client: httpx2.AsyncClient) -> None:
    assert (await asked(world, client, options={"num_ctx": 9})).num_ctx == 9
    assert (await asked(world, client)).num_ctx == 0


# -- what a made model brings along ---------------------------------------------------------------------

PRESET = Preset(
    system="be brief",
    parameters=(
        ("temperature", 0.25),
        ("top_k", 7),
        ("repeat_penalty", 1.5),
        ("num_predict", 2),
        ("num_ctx", 99),
        ("seed", 4),
        ("stop", ("X",)),
        ("num_keep", 8),
    ),
    messages=(Message(Role.USER, "hi"), Message(Role.ASSISTANT, "ho")),
)


async def test_a_made_models_parameters_are_defaults(world: World, client: httpx2.AsyncClient) -> None:
    change_model(world, preset=PRESET)
    request = await asked(world, client)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.repetition_penalty) == (0.25, 7, 1.5)
    assert (sampling.max_tokens, sampling.seed, sampling.stop, request.num_ctx) == (2, 4, ("X",), 99)
    request = await asked(
        world, client, temperature=1, repetition_penalty=1, max_tokens=3, seed=5, stop=[], options={"num_ctx": 50}
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.repetition_penalty) == (1, 7, 1)
    assert (sampling.max_tokens, sampling.seed, sampling.stop, request.num_ctx) == (3, 5, (), 50)


async def test_unlimited_parameters_of_a_made_model_are_no_limits(world: World, client: httpx2.AsyncClient) -> None:
    change_model(world, preset=Preset(parameters=(("num_predict", -2), ("seed", -1), ("stop", "X"))))
    sampling = (await asked(world, client)).sampling
    assert (sampling.max_tokens, sampling.seed, sampling.stop) == (None, None, ("X",))


async def test_a_made_models_messages_come_first(world: World, client: httpx2.AsyncClient) -> None:
    change_model(world, preset=PRESET)
    chat = await chat_for(world, client)
    assert [message.content for message in chat.messages] == ["be brief", "hi", "ho", "one two three"]
    own = [{"role": "developer", "content": "be long"}, USER]
    chat = await chat_for(world, client, messages=own)
    assert [message.content for message in chat.messages] == ["hi", "ho", "be long", "one two three"]


async def test_messages_are_wanted_also_of_a_made_model(world: World, client: httpx2.AsyncClient) -> None:
    change_model(world, preset=PRESET)
    response = await client.post(URL, json=body(messages=[]))
    assert response.json()["error"]["param"] == "messages"
