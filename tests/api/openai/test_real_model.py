"""The whole way: the official clients, a real `ingle serve`, and the weights of small models."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL = "qwen2.5-coder:0.5b"
EMBEDDING = "all-minilm-l6-v2"
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say the word hello and nothing else."}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": CITY}},
    {"type": "function", "function": {"name": "time", "description": "What time it is"}},
]
ASK_WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Lisbon, in C?"}]

pytestmark = pytest.mark.weights(MODEL, EMBEDDING)


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, _strict_response_validation=True) as client:
        yield client


def test_a_greedy_stream_joins_to_the_answer_in_one_piece(client: OpenAI) -> None:
    wish: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_completion_tokens": 12}
    whole = client.chat.completions.create(**wish)
    chunks = list(client.chat.completions.create(**wish, stream=True, stream_options={"include_usage": True}))
    content = whole.choices[0].message.content
    assert content is not None
    assert "hello" in content.lower()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == content
    last = chunks[-1].usage
    assert whole.usage is not None and last is not None
    assert last.completion_tokens == whole.usage.completion_tokens
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


def test_two_seeds_give_two_texts_and_one_seed_one(client: OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Write a long story."}],
            max_completion_tokens=12,
            temperature=1.5,
            seed=seed,
        )
        return answer.choices[0].message.content

    assert text(1) == text(1) != text(2)


def test_a_form_is_kept_by_every_choice_and_its_probabilities_are_told(client: OpenAI) -> None:
    form = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_completion_tokens=40,
        n=2,
        seed=5,
        logprobs=True,
        top_logprobs=2,
        extra_body={"guided_regex": "(yes|no), [0-9]{3}"},
    )
    for choice in form.choices:
        assert re.fullmatch("(yes|no), [0-9]{3}", choice.message.content or "")
        assert choice.logprobs is not None and choice.logprobs.content
        for token in choice.logprobs.content:
            best, second = token.top_logprobs
            assert 0 >= best.logprob >= second.logprob


def test_a_schema_with_nested_objects_is_obeyed_at_temperature_one(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "person": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 10}, "kind": {"enum": ["cat", "dog"]}},
                "required": ["name", "kind"],
                "additionalProperties": False,
            },
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        },
        "required": ["person", "sizes"],
        "additionalProperties": False,
    }
    for seed in range(2):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Describe a pet."}],
            temperature=1,
            seed=seed,
            max_completion_tokens=150,
            response_format={"type": "json_schema", "json_schema": {"name": "pet", "schema": schema, "strict": True}},
        )
        assert answer.choices[0].finish_reason == "stop"
        pet = json.loads(answer.choices[0].message.content or "")
        assert set(pet) == {"person", "sizes"}
        assert pet["person"]["kind"] in ("cat", "dog")
        assert all(0 <= size <= 99 for size in pet["sizes"])


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "required",
                "tools": [{"type": "function", "function": {"name": "weather"}}],
            },
        },
    ],
)
def test_a_call_that_is_required_is_made_and_its_result_is_read(client: OpenAI, choice: Any) -> None:
    first = client.chat.completions.create(
        model=MODEL,
        messages=ASK_WEATHER,
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        max_completion_tokens=80,
        temperature=1,
        seed=3,
    )
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert re.fullmatch(r"call_[a-z0-9]+", call.id)
    arguments = json.loads(call.function.arguments)
    if call.function.name == "weather":
        assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("C", "F")
    else:
        assert choice == "required"
    told: list[Any] = [
        *ASK_WEATHER,
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"},
    ]
    second = client.chat.completions.create(
        model=MODEL, messages=told, tools=TOOLS, tool_choice="none", temperature=0, max_completion_tokens=12
    )
    assert second.choices[0].message.content


def test_calls_of_a_stream_join_to_those_in_one_piece(client: OpenAI) -> None:
    wish: dict[str, Any] = {
        "model": MODEL,
        "messages": ASK_WEATHER,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_completion_tokens": 60,
    }
    whole = client.chat.completions.create(**wish).choices[0]
    with client.chat.completions.stream(**wish) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert whole.message.tool_calls and streamed.message.tool_calls
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in streamed.message.tool_calls] == [
        (call.function.name, json.loads(call.function.arguments)) for call in whole.message.tool_calls
    ]


def test_tools_may_be_left_alone(client: OpenAI) -> None:
    for choice in ("auto", "none"):
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, tools=TOOLS, tool_choice=choice, temperature=0, max_completion_tokens=60
        )
        if choice == "none" or answer.choices[0].finish_reason == "stop":
            assert answer.choices[0].message.content
            assert not answer.choices[0].message.tool_calls


def test_a_completion_echoes_the_prompt_with_its_probabilities(url: str) -> None:
    # The format has null for the first token of a prompt, which the client's own types do not.
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        answer = client.completions.create(
            model=MODEL, prompt="def add(a, b):", max_tokens=4, temperature=0, echo=True, logprobs=2
        )
        scored = client.completions.create(
            model=MODEL, prompt="def add(a, b):", max_tokens=0, echo=True, logprobs=0
        ).choices[0]
        chunks = list(client.completions.create(model=MODEL, prompt=["1 2", "a b"], n=2, max_tokens=3, stream=True))
    (choice,) = answer.choices
    assert choice.text.startswith("def add(a, b):") and len(choice.text) > len("def add(a, b):")
    logprobs = choice.logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.token_logprobs and logprobs.text_offset
    assert "".join(logprobs.tokens) == choice.text
    assert all(
        choice.text[at:].startswith(token) for at, token in zip(logprobs.text_offset, logprobs.tokens, strict=True)
    )
    assert logprobs.token_logprobs[0] is None
    assert all(one <= 0 for one in logprobs.token_logprobs[1:])
    assert scored.logprobs is not None and scored.logprobs.token_logprobs
    assert scored.logprobs.token_logprobs[1:] == pytest.approx(
        logprobs.token_logprobs[1 : len(scored.logprobs.token_logprobs)], abs=1e-3
    )
    assert {one.index for chunk in chunks for one in chunk.choices} == {0, 1, 2, 3}
    assert sum(one.finish_reason is not None for chunk in chunks for one in chunk.choices) == 4


def test_the_middle_is_filled_in(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt="def add(a, b):\n    return ",
        suffix="\n\nprint(add(1, 2))\n",
        max_tokens=8,
        temperature=0,
        stop="\n",
    )
    assert "a + b" in answer.choices[0].text


def test_vectors_arrive_as_base64_and_equal_the_numbers(client: OpenAI, url: str) -> None:
    texts = ["a cat", "a kitten", "the stock market"]
    with OpenAI(base_url=f"{url}/v1", api_key="any") as asking_for_base64:
        # A strict client refuses the base64 that every client asks for of itself.
        packed = asking_for_base64.embeddings.create(model=EMBEDDING, input=texts)
    plain = client.embeddings.create(model=EMBEDDING, input=texts, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == other.embedding
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-5)
    cat, kitten, market = (item.embedding for item in plain.data)
    assert _dot(cat, kitten) > _dot(cat, market) + 0.2
    tokens = httpx2.post(f"{url}/v1/tokenize", json={"model": EMBEDDING, "prompt": "a cat"}).json()["tokens"]
    by_tokens = client.embeddings.create(model=EMBEDDING, input=tokens, encoding_format="float")
    assert _dot(by_tokens.data[0].embedding, cat) == pytest.approx(1, abs=1e-5)
    of_text = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    cat, kitten, market = (item.embedding for item in of_text.data)
    assert _dot(cat, cat) == pytest.approx(1, abs=1e-5)
    assert _dot(cat, kitten) > _dot(cat, market)


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_tokens_and_text_go_round(url: str) -> None:
    text = "def café(🦜): pass"
    split = httpx2.post(f"{url}/tokenize", json={"model": MODEL, "prompt": text, "with_pieces": True}).json()
    ids = [token["id"] for token in split["tokens"]]
    pieces = [token["piece"] for token in split["tokens"]]
    raw = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
    assert raw.decode() == text
    assert httpx2.post(f"{url}/detokenize", json={"model": MODEL, "tokens": ids}).json()["content"] == text
    chat = httpx2.post(f"{url}/tokenize", json={"model": MODEL, "messages": QUESTION}).json()
    assert "<|im_start|>user" in httpx2.post(
        f"{url}/detokenize", json={"model": MODEL, "tokens": chat["tokens"]}
    ).json()["content"]  # fmt: skip
    assert httpx2.post(f"{url}/detokenize", json={"model": MODEL, "tokens": [10**6]}).status_code == 422


def test_failures_are_the_exceptions_of_their_status(client: OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="tokens and the model's context holds") as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 200}], extra_body={"options": {"num_ctx": 64}}
        )
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "broken", "schema": {"type": "nonsense"}},
            },
        )
    assert (caught.value.code, caught.value.param) == ("invalid_value", "response_format")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[10**6])
    assert caught.value.param == "prompt"
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).chat.completions.create(
            model=MODEL, messages=QUESTION, extra_body={"min_tokens": 400}
        )
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION, max_completion_tokens=1)
    assert raw.headers["x-request-id"]
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().usage is not None
    wait_for_work(url, 0)


def wait_for_work(url: str, requests: int) -> None:
    """Until so many requests are at work; one that was left by its client must not be."""
    give_up = time.monotonic() + 10
    while httpx2.get(f"{url}/models/{MODEL}").json()["in_flight"] != requests:
        assert time.monotonic() < give_up, "the server did not notice"
        time.sleep(0.02)


async def test_leaving_a_stream_frees_its_place(url: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", _strict_response_validation=True) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, extra_body={"min_tokens": 2000}
        )
        async for _ in stream:
            break
        await stream.close()
        await asyncio.to_thread(wait_for_work, url, 0)
        work = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body={"min_tokens": 2000})
        )
        await asyncio.to_thread(wait_for_work, url, 1)
        work.cancel()
        await asyncio.to_thread(wait_for_work, url, 0)


async def test_a_prompt_and_a_seed_give_one_text_in_every_dialect_alone_and_among_others(url: str) -> None:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    messages = [{"role": "user", "content": "Name an animal, and say why."}]
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:

        async def native(seed: int) -> str:
            options = {**sampling, "num_predict": 8, "seed": seed}
            body = {"model": MODEL, "prompt": messages[0]["content"], "options": options}
            return str((await client.post("/generate", json=body)).json()["response"])

        async def ollama(seed: int) -> str:
            options = {**sampling, "num_predict": 8, "seed": seed}
            body = {"model": MODEL, "messages": messages, "stream": False, "options": options}
            return str((await client.post("/api/chat", json=body)).json()["message"]["content"])

        async def chat(seed: int) -> str:
            body = {"model": MODEL, "messages": messages, **sampling, "max_tokens": 8, "seed": seed}
            response = await client.post("/v1/chat/completions", json=body)
            return str(response.json()["choices"][0]["message"]["content"])

        alone = [await native(7), await ollama(7), await chat(7)]
        among = await asyncio.gather(*(one(seed) for seed in (7, 8, 9, 10, 11) for one in (native, ollama, chat)))
    assert alone[0]
    assert set(alone) == {alone[0]}
    assert among[:3] == alone
    assert len(set(among)) > 1
