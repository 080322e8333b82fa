"""Calls told apart from text in each family's own way, and what only looks like them."""

import pytest

from domain.tools import ToolCall
from models.text.call_ids import call_ids
from models.text.marks import (
    BARE,
    DEEPSEEK,
    DEEPSEEK_FENCED,
    HERMES,
    LLAMA,
    MAX_CALLS,
    MISTRAL,
    MISTRAL_NAMED,
    QWEN_XML,
    CallSyntax,
)
from models.text.parts import Kind, Part
from models.text.tools import CallReader
from tests.models.cutting import CALL, DEEP, DEEP_BEGIN, DEEP_END, FENCED, LLAMA_CALL, RIO, TOOLS, XML, read, told


@pytest.mark.parametrize(
    ("syntax", "answer"),
    [
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>"),
        (HERMES, f"<tool_call>{CALL}"),
        (HERMES, CALL),
        (HERMES, f"```json\n{CALL}\n```"),
        (HERMES, f"\n```\n{CALL}\n"),
        (HERMES, f'{{"type": "function", "function": {CALL}}}'),
        (LLAMA, LLAMA_CALL),
        (LLAMA, f"<|python_tag|>{LLAMA_CALL}"),
        (MISTRAL, f"[TOOL_CALLS][{CALL}]"),
        (MISTRAL, f"[TOOL_CALLS] {CALL}".replace(" {", "[{", 1) + "]"),
        (MISTRAL_NAMED, '[TOOL_CALLS]weather[ARGS]{"city": "Rio"}'),
        (MISTRAL_NAMED, '[TOOL_CALLS]weather[CALL_ID]abcdef123[ARGS]{"city": "Rio"}'),
        (BARE, CALL),
        (QWEN_XML, f"<tool_call>\n{XML}\n</tool_call>"),
        (QWEN_XML, XML),
        (QWEN_XML, "<function=weather><parameter=city>Rio</parameter></function>"),
        (QWEN_XML, CALL),
        (DEEPSEEK, f"{DEEP_BEGIN}{DEEP}{DEEP_END}"),
        (DEEPSEEK, DEEP),
        (DEEPSEEK_FENCED, f"{DEEP_BEGIN}{FENCED}{DEEP_END}"),
    ],
)
def test_a_call_is_read_in_its_family_s_own_way(syntax: CallSyntax, answer: str) -> None:
    assert read(answer, syntax) == ("", "", [RIO])


@pytest.mark.parametrize(
    ("syntax", "answer"),
    [
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"),
        (HERMES, f"{CALL}\n{CALL}"),
        (LLAMA, f"{LLAMA_CALL}; {LLAMA_CALL}"),
        (LLAMA, f"<|python_tag|>{LLAMA_CALL}; {LLAMA_CALL}"),
        (MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]"),
        (MISTRAL_NAMED, '[TOOL_CALLS]weather[ARGS]{"city": "Rio"}' * 2),
        (QWEN_XML, f"<tool_call>\n{XML}\n</tool_call>\n<tool_call>\n{XML}\n</tool_call>"),
        (DEEPSEEK, f"{DEEP_BEGIN}{DEEP}{DEEP}{DEEP_END}"),
        (DEEPSEEK_FENCED, f"{DEEP_BEGIN}{FENCED}\n{FENCED}{DEEP_END}"),
    ],
)
def test_several_calls_are_read_or_the_first_alone(syntax: CallSyntax, answer: str) -> None:
    assert read(answer, syntax) == ("", "", [RIO, RIO])
    assert read(answer, syntax, one=True) == ("", "", [RIO])


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": "Rio"}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {"city": Rio}}\n</tool_call>',
        '<tool_call>\n{"name": ["weather"], "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {"temperature": NaN}}\n</tool_call>',
        "<tool_call>weather</tool_call>",
        '<tool_call>\n{"name": "weather", "argu',
        "a <tool_c",
        f"The call is {CALL}",
        f"{CALL} is the call",
        f"```json\n{CALL}\n``` is the call",
        f"```python\n{CALL}\n```",
        '{"city": "Rio"}',
        '{"name": "weather", "place": "Rio"}',
        "{",
        "``",
        " \n",
    ],
)
def test_what_only_looks_like_a_call_stays_text(answer: str) -> None:
    assert read(answer) == (answer, "", [])


@pytest.mark.parametrize(
    ("syntax", "answer"),
    [
        (QWEN_XML, XML.replace("weather", "nobody")),
        (QWEN_XML, f"<tool_call>\n{XML.removesuffix('</function>')}\n</tool_call>"),
        (QWEN_XML, XML.replace("<parameter=city>", "<parameter city>")),
        (QWEN_XML, f"<function={'x' * 300}>"),
        (QWEN_XML, "if a <function= b"),
        (DEEPSEEK, f"{DEEP_BEGIN}{DEEP.replace('weather', 'nobody')}{DEEP_END}"),
        (DEEPSEEK, f"{DEEP_BEGIN}{FENCED}{DEEP_END}"),
        (DEEPSEEK_FENCED, f"{DEEP_BEGIN} is how calls begin"),
    ],
)
def test_what_only_looks_like_a_family_s_call_stays_text(syntax: CallSyntax, answer: str) -> None:
    assert read(answer, syntax) == (answer, "", [])


def test_elements_are_what_the_schema_says() -> None:
    values = {"city": "12", "days": "3", "places": '["a", {"b": 1}]', "unit": "null", "other": "4"}
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    expected = {"city": "12", "days": 3, "places": ["a", {"b": 1}], "unit": None, "other": "4"}
    assert read(f"<function=weather>\n{written}</function>", QWEN_XML) == ("", "", [("weather", expected)])


def test_text_in_elements_stays_as_it_was_written() -> None:
    for text in ("", "\n", " a\n\n  b ", "<b></b></param", "{}", "</function>", "é🐝"):
        written = f"<function=weather>\n<parameter=city>\n{text}\n</parameter>\n</function>"
        assert read(written, QWEN_XML) == ("", "", [("weather", {"city": text})])
    # What cannot be meant as text is left for whoever runs the tool to refuse.
    assert read(XML.replace("city", "days"), QWEN_XML)[2] == [("weather", {"days": "Rio"})]


def test_text_before_a_call_comes_at_once_and_text_after_it_too() -> None:
    calls = CallReader(HERMES, TOOLS, call_ids(1, 0), only_one=False)
    assert calls.push("Let me see.\n<tool") == [Part(Kind.TEXT, "Let me see.")]
    assert calls.push(f"_call>\n{CALL}")[0].calls == (ToolCall(call_ids(1, 0)(), "weather", '{"city": "Rio"}'),)
    assert calls.push("\n</tool_call>\nDone") == [Part(Kind.HIDDEN, "\n</tool_call>"), Part(Kind.TEXT, "\nDone")]


@pytest.mark.parametrize("one", [f"<tool_call>{CALL}</tool_call>", f"{CALL}\n"])
def test_a_model_that_calls_on_and_on_is_stopped(one: str) -> None:
    calls = CallReader(HERMES, TOOLS, call_ids(1, 0), only_one=False)
    parts = []
    for character in one * (MAX_CALLS - 1) + one.removesuffix("</tool_call>").rstrip():
        assert not calls.done
        parts += calls.push(character)
    assert calls.done
    assert told(parts) == ("", "", [RIO] * MAX_CALLS)


def test_a_mark_inside_a_string_ends_no_call() -> None:
    call = '{"name": "weather", "arguments": {"city": "</tool_call> } \\" ]"}}'
    assert read(f"<tool_call>{call}</tool_call>") == ("", "", [("weather", {"city": '</tool_call> } " ]'})])


def test_after_a_broken_call_a_good_one_is_still_found() -> None:
    assert read(f'<tool_call>{{"name": <tool_call>{CALL}</tool_call>') == ('<tool_call>{"name":', "", [RIO])
