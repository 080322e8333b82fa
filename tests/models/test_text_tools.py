"""Tools and thinking through the engine: calls that are asked for are made, and forms wait for the thoughts to end."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from domain.errors import InvalidRequest
from domain.generation import FinishReason, GenerationRequest, SamplingParams
from domain.prompt import Chat, TokenIds
from domain.tools import ToolCall, ToolChoice, ToolMode
from models.text.engine import TextEngine
from models.text.marks import DEEPSEEK, MAX_CALLS
from tests.models.calling import (
    CITY,
    REQUIRED,
    RIO,
    SAID,
    SAYS_CITY,
    STRICT,
    TEMPLATES,
    TIME,
    USER,
    WEATHER,
    answer,
    asked,
    engines_of,
    told,
)
from tests.models.scripted import follow_script
from tests.models.talking import talking
from tests.models.tiny import save_tiny


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TextEngine]]:
    with engines_of(tmp_path_factory.mktemp("tools")) as engines:
        yield engines


@pytest.mark.parametrize("family", SAID)
async def test_a_call_is_told_whether_the_model_chose_it_or_had_to(engines: dict[str, TextEngine], family: str) -> None:
    for tool in (WEATHER, STRICT):
        for choice in (ToolChoice(), REQUIRED, ToolChoice(ToolMode.REQUIRED, ("weather",))):
            chat = Chat(USER, tools=(tool, TIME), tool_choice=choice)
            assert await answer(engines[family], SAID[family], chat) == ("", "", [RIO])


@pytest.mark.parametrize("family", SAID)
async def test_a_model_that_would_rather_talk_must_call(engines: dict[str, TextEngine], family: str) -> None:
    chat = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED, parallel_tool_calls=False)
    text, _, calls = await answer(engines[family], "It is sunny.", chat)
    assert text == ""
    assert [name for name, _ in calls] == ["weather"]
    jsonschema.validate(calls[0][1], json.loads(CITY))


async def test_a_required_call_that_is_cut_short_is_neither_call_nor_text(engines: dict[str, TextEngine]) -> None:
    follow_script(engines["hermes"], SAID["hermes"])
    chat = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED)
    text, _, calls, last = await told(engines["hermes"].generate(asked(chat, max_tokens=20)))
    assert last.finish is not None
    assert (text, calls, last.finish.reason) == ("", [], FinishReason.LENGTH)


@pytest.mark.parametrize("family", SAID)
async def test_tools_that_must_not_be_called_are_not(engines: dict[str, TextEngine], family: str) -> None:
    chat = Chat(USER, tools=(WEATHER,), tool_choice=ToolChoice(ToolMode.NONE))
    text, _, calls = await answer(engines[family], SAID[family], chat)
    assert calls == []
    assert "Rio" in text


@pytest.mark.parametrize("script", [SAID["hermes"], '{"name": "weather", "arguments": {"city": "Rio"}}'])
async def test_what_a_model_begins_as_a_call_keeps_to_the_schema(engines: dict[str, TextEngine], script: str) -> None:
    chat = Chat(USER, tools=(WEATHER, TIME))
    text, _, calls = await answer(engines["hermes"], script.replace("Rio", "Qrio"), chat)
    assert (text, len(calls)) == ("", 1)
    jsonschema.validate(calls[0][1], json.loads(CITY))
    marked = script.startswith("<")
    text, _, calls = await answer(engines["hermes"], script.replace('"weather"', '"unknown"'), chat)
    assert [name for name, _ in calls] == (["weather"] if marked else []) or calls[0][0] == "time"
    assert bool(text) is not marked


@pytest.mark.parametrize("family", ["qwen xml", "deepseek", "deepseek fenced", "mistral named"])
async def test_a_call_of_any_family_keeps_to_the_schema(engines: dict[str, TextEngine], family: str) -> None:
    text, _, calls = await answer(engines[family], SAID[family].replace("Rio", "Qrio"), Chat(USER, tools=(WEATHER,)))
    assert (text, len(calls)) == ("", 1)
    jsonschema.validate(calls[0][1], json.loads(CITY))


async def test_text_and_other_json_stay_free_beside_tools(engines: dict[str, TextEngine]) -> None:
    chat = Chat(USER, tools=(WEATHER,))
    for script in ("It is sunny.", '{"city": "Bergen"}', '{"name": "Bergen"}'):
        assert await answer(engines["hermes"], script, chat) == (script, "", [])


async def test_one_call_is_all_where_calls_may_not_be_parallel(engines: dict[str, TextEngine]) -> None:
    for choice in (ToolChoice(), REQUIRED):
        chat = Chat(USER, tools=(WEATHER,), tool_choice=choice)
        script = f"{SAID['hermes']}\n{SAID['hermes']}"
        assert await answer(engines["hermes"], script, chat) == ("", "", [RIO, RIO])
        alone = replace(chat, parallel_tool_calls=False)
        assert await answer(engines["hermes"], script, alone) == ("", "", [RIO])


@pytest.mark.parametrize("family", ["hermes", "mistral", "mistral named", "deepseek", "qwen xml"])
async def test_a_model_that_repeats_a_required_call_for_ever_is_stopped(family: str, tmp_path: Path) -> None:
    said = SAID[family]
    if family == "mistral":
        said = f"[TOOL_CALLS][{', '.join([SAID['bare']] * 30)}]"
    elif family == "deepseek":
        begin, end = DEEPSEEK.outer
        said = begin + said.removeprefix(begin).removesuffix(end) * 30 + end
    else:
        said = ("" if family == "mistral named" else "\n").join([said] * 30)
    directory = save_tiny(tmp_path, talks=True, template=TEMPLATES[family], max_position_embeddings=4096)
    with talking(directory) as engine:
        chat = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED)
        assert await answer(engine, said, chat, max_tokens=3900) == ("", "", [RIO] * MAX_CALLS)


async def test_a_form_beside_tools_leaves_the_choice_between_the_two(engines: dict[str, TextEngine]) -> None:
    chat = Chat(USER, tools=(TIME, WEATHER))
    more = {"constraint": SAYS_CITY}
    assert await answer(engines["hermes"], '{"city": "Oslo"}', chat, **more) == ('{"city": "Oslo"}', "", [])
    assert await answer(engines["hermes"], SAID["hermes"], chat, **more) == ("", "", [RIO])
    with pytest.raises(InvalidRequest) as caught:
        await answer(engines["bare"], "", chat, **more)
    assert caught.value.field == "tools"


THOUGHT = "<think>\nhm, hm\n</think>\n\n"


@pytest.mark.parametrize("family", ["thinks", "opens"])
async def test_a_form_begins_where_the_thinking_ends(engines: dict[str, TextEngine], family: str) -> None:
    thought = THOUGHT if family == "thinks" else THOUGHT.removeprefix("<think>\n")
    engine = engines[family]
    form = {"constraint": SAYS_CITY}
    assert await answer(engine, thought + "Hello", Chat(USER)) == ("Hello", "hm, hm", [])
    assert await answer(engine, thought + '{"city": "Rio"}', Chat(USER), **form) == ('{"city": "Rio"}', "hm, hm", [])
    required = Chat(USER, tools=(WEATHER,), tool_choice=REQUIRED)
    assert await answer(engine, thought + SAID["hermes"], required) == ("", "hm, hm", [RIO])
    free = Chat(USER, tools=(WEATHER,))
    assert await answer(engine, f"{thought}So.\n{SAID['hermes']}", free) == ("So.", "hm, hm", [RIO])
    assert await answer(engine, '{"city": "Rio"}', Chat(USER, think=False), **form) == ('{"city": "Rio"}', "", [])


async def test_the_last_tokens_of_a_chat_are_answered_as_that_chat(engines: dict[str, TextEngine]) -> None:
    chat, engine = Chat(USER, tools=(WEATHER,)), engines["opens"]
    ids = await engine.encode(chat)
    follow_script(engine, THOUGHT.removeprefix("<think>\n") + SAID["hermes"])
    params = SamplingParams(temperature=0.0, max_tokens=300)
    text, thinking, calls, _ = await told(engine.generate(GenerationRequest(TokenIds(ids[2:], chat), params)))
    assert (text, thinking, calls) == ("", "hm, hm", [RIO])


async def test_thinking_is_counted_and_stop_strings_and_probabilities_leave_it_out(
    engines: dict[str, TextEngine],
) -> None:
    follow_script(engines["thinks"], "<think>a b</think>c b")
    chunks = [chunk async for chunk in engines["thinks"].generate(asked(Chat(USER), stop=("b",), logprobs=0))]
    finish = chunks[-1].finish
    assert finish is not None
    assert "".join(chunk.thinking for chunk in chunks) == "a b"
    assert "".join(chunk.text for chunk in chunks) == "c "
    assert b"".join(entry.raw for chunk in chunks for entry in chunk.logprobs) == b"c "
    assert (finish.usage.reasoning_tokens, finish.usage.completion_tokens) == (5, 8)


async def test_ids_of_calls_repeat_with_the_seed(engines: dict[str, TextEngine]) -> None:
    async def ids(seed: int | None) -> list[str]:
        follow_script(engines["hermes"], SAID["hermes"])
        request = replace(asked(Chat(USER, tools=(WEATHER,)), seed=seed), n=2)
        chunks = [chunk async for chunk in engines["hermes"].generate(request)]
        calls: list[ToolCall] = [call for chunk in chunks for call in chunk.tool_calls]
        return sorted(call.id for call in calls)

    assert await ids(1) == await ids(1) != await ids(2)
    assert len({*await ids(None), *await ids(None)}) == 4
