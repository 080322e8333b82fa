"""Tools, holes and probabilities with real weights: what a small model does when nobody writes its lines."""

import asyncio
import json
from collections.abc import Iterator
from typing import cast

import pytest

from application.ports import TextModel
from domain.generation import GenerationRequest, SamplingParams, TextChunk
from domain.model import LoadOptions
from domain.prompt import Chat, FillInMiddle, Message, Prompt, RawText, Role, TokenIds
from domain.tools import Tool, ToolCall, ToolChoice, ToolMode
from models.budget import BudgetPolicy
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from models.store import ModelStore

MODEL = "qwen2.5-coder:0.5b"
pytestmark = [pytest.mark.weights(MODEL), pytest.mark.timeout(300)]

WEATHER = Tool(
    "get_weather",
    "Get the current weather in a city",
    json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        }
    ),
)
QUESTION = Message(Role.USER, "What is the weather in Lisbon in celsius?")


@pytest.fixture(scope="module")
def engine(model_store: ModelStore) -> Iterator[TextModel]:
    policy = LoadPolicy(cpu_threads=2, budget=BudgetPolicy(min_free_bytes=0), context_length=2048)
    repository = OptimizedModelRepository(model_store, AudioDecoder(processes=1), policy)
    model = asyncio.run(repository.load(repository.find(MODEL), LoadOptions(), lambda _: None))
    yield cast(TextModel, model)
    asyncio.run(repository.unload(model))
    repository.close()


async def told(
    engine: TextModel, prompt: Prompt, *, scores: int | None = None, **sampling: int
) -> tuple[str, list[ToolCall], list[TextChunk]]:
    params = SamplingParams(temperature=0.0, **{"max_tokens": 60, **sampling})  # type: ignore[arg-type]
    chunks = [chunk async for chunk in engine.generate(GenerationRequest(prompt, params, prompt_logprobs=scores))]
    return "".join(chunk.text for chunk in chunks), [call for chunk in chunks for call in chunk.tool_calls], chunks


async def test_a_required_call_and_its_result_become_an_answer(engine: TextModel) -> None:
    required = ToolChoice(ToolMode.REQUIRED, ("get_weather",))
    asked = Chat((QUESTION,), tools=(WEATHER,), tool_choice=required, parallel_tool_calls=False)
    text, calls, _ = await told(engine, asked)
    assert text == ""
    assert [call.name for call in calls] == ["get_weather"]
    arguments = json.loads(calls[0].arguments)
    assert arguments["city"].startswith("Lisb")
    assert arguments["unit"] == "celsius"
    result = Message(Role.TOOL, '{"degrees": 31, "sky": "clear"}', tool_call_id=calls[0].id)
    answered = Chat((QUESTION, Message(Role.ASSISTANT, "", tool_calls=tuple(calls)), result))
    text, calls, _ = await told(engine, answered)
    assert "31" in text
    assert not calls


async def test_a_model_calls_of_its_own_accord_and_talks_where_there_is_nothing_to_call(engine: TextModel) -> None:
    text, calls, _ = await told(engine, Chat((QUESTION,), tools=(WEATHER,)))
    assert text == ""
    assert [call.name for call in calls] == ["get_weather"]
    text, calls, _ = await told(engine, Chat((Message(Role.USER, "Hello, who are you?"),), tools=(WEATHER,)))
    assert text
    assert not calls


async def test_a_hole_is_filled_with_what_belongs_there(engine: TextModel) -> None:
    hole = FillInMiddle("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n")
    text, _, _ = await told(engine, hole)
    assert text.strip().startswith("a + b")
    assert "<|" not in text


async def test_what_a_model_wrote_is_as_probable_to_it_when_it_reads_it(engine: TextModel) -> None:
    _, _, chunks = await told(engine, RawText("The capital of France is"), max_tokens=12, logprobs=0)
    finish = chunks[-1].finish
    assert finish is not None
    written = [entry for chunk in chunks for entry in chunk.logprobs]
    _, _, read = await told(engine, TokenIds(finish.context), scores=0, max_tokens=0)
    scores = dict(enumerate(read[0].prompt))
    for place, entry in enumerate(written, finish.usage.prompt_tokens):
        assert scores[place].token_id == entry.token_id
        # Keys and values are kept in fewer bits than they are reckoned with.
        assert scores[place].logprob == pytest.approx(entry.logprob, abs=0.4)
