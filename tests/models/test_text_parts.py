"""Thinking, calls and text told apart as an answer comes, however it is cut into pieces."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.generation import TokenLogprob
from domain.tools import ToolCall
from models.text.call_ids import call_ids
from models.text.decoding import StopStrings, TextStream
from models.text.marks import BARE, HERMES, LLAMA, MAX_CALLS, MISTRAL, MISTRAL_NAMED, CallSyntax
from models.text.parts import Kind, Part
from models.text.reading import PartsReader
from models.text.reasoning import ThinkingReader
from models.text.sampler import Ranked
from models.text.shown_logprobs import HeldLogprobs
from models.text.tokenizer import TextTokenizer, TokenizerSettings
from models.text.tools import CallReader
from tests.models.tiny import tool_tokenizer

NAMES = frozenset(("weather", "time"))
CALL = '{"name": "weather", "arguments": {"city": "Rio"}}'
LLAMA_CALL = CALL.replace("arguments", "parameters")
SYNTAXES = (HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, BARE)
Calls = list[tuple[str, object]]

# What models write, and what comes near it.
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>", "```",
    "```json\n", CALL, LLAMA_CALL, f"[{CALL}]", f"[{CALL}, {CALL}]", "weather", '{"city": "Rio"}',
    '{"name": "nobody", "arguments": {}}',
    '{"name": "time"}', '{"name": "weather", "arguments": "Rio"}', '{"name": "weather", "arg', "{", "}", "[", '"', "; ",
    "\n", " ", "<", "</", "tool", "Hello.", '{"text": "</tool_call> \\" }"}', "é🐝",
)  # fmt: skip


def reader(syntax: CallSyntax, *, opened: bool = False, stop: tuple[str, ...] = (), one: bool = False) -> PartsReader:
    calls = CallReader(syntax, NAMES, call_ids(1, 0), only_one=one)
    stream = TextStream(tool_tokenizer())
    return PartsReader(stream, StopStrings(stop), ThinkingReader(is_open=opened), calls)


def parts_of(pieces: list[str], syntax: CallSyntax, *, opened: bool = False, one: bool = False) -> list[Part]:
    thinking, calls = ThinkingReader(is_open=opened), CallReader(syntax, NAMES, call_ids(1, 0), only_one=one)
    parts: list[Part] = []
    for piece in pieces:
        for part in thinking.push(piece):
            parts += calls.push(part.text) if part.kind is Kind.TEXT else [part]
    for part in thinking.flush():
        parts += calls.push(part.text) if part.kind is Kind.TEXT else [part]
    return parts + calls.flush()


def told(parts: list[Part]) -> tuple[str, str, Calls]:
    text = "".join(part.text for part in parts if part.kind is Kind.TEXT)
    thinking = "".join(part.text for part in parts if part.kind is Kind.THINKING)
    return text, thinking, [(call.name, json.loads(call.arguments)) for part in parts for call in part.calls]


def read(text: str, syntax: CallSyntax = HERMES, *, opened: bool = False, one: bool = False) -> tuple[str, str, Calls]:
    return told(parts_of([text], syntax, opened=opened, one=one))


RIO = ("weather", {"city": "Rio"})


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


def test_text_before_a_call_comes_at_once_and_text_after_it_too() -> None:
    calls = CallReader(HERMES, NAMES, call_ids(1, 0), only_one=False)
    assert calls.push("Let me see.\n<tool") == [Part(Kind.TEXT, "Let me see.")]
    assert calls.push(f"_call>\n{CALL}")[0].calls == (ToolCall(call_ids(1, 0)(), "weather", '{"city": "Rio"}'),)
    assert calls.push("\n</tool_call>\nDone") == [Part(Kind.HIDDEN, "\n</tool_call>"), Part(Kind.TEXT, "\nDone")]


@pytest.mark.parametrize("one", [f"<tool_call>{CALL}</tool_call>", f"{CALL}\n"])
def test_a_model_that_calls_on_and_on_is_stopped(one: str) -> None:
    calls = CallReader(HERMES, NAMES, call_ids(1, 0), only_one=False)
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


@pytest.mark.parametrize(
    ("answer", "opened", "expected"),
    [
        ("<think>\nhm, hm\n</think>\n\nHello", False, ("Hello", "hm, hm")),
        ("hm\n</think>\n\nHello", True, ("Hello", "hm")),
        ("\n<think>\n\n</think>\n\nHello\n", False, ("Hello\n", "")),
        ("<think>never ends </thi", False, ("", "never ends </thi")),
        ("Say <think> and </think>", False, ("Say <think> and </think>", "")),
        ("<thin air>", False, ("<thin air>", "")),
    ],
)
def test_thinking_is_told_apart(answer: str, opened: bool, expected: tuple[str, str]) -> None:
    assert read(answer, opened=opened)[:2] == expected


def test_calls_in_thoughts_are_thoughts() -> None:
    call = f"<tool_call>{CALL}</tool_call>"
    assert read(f"<think>{call}</think>{call}") == ("", call, [RIO])


@settings(max_examples=400, deadline=None)
@given(
    fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=8),
    cuts=st.lists(st.integers(0, 300), max_size=12),
    syntax=st.sampled_from(SYNTAXES),
    opened=st.booleans(),
    one=st.booleans(),
)
@example(["```json\n", CALL, "```", "; "], [3, 8, 20], HERMES, False, False)
@example(['{"x": 1, "name": "weather", "arguments": {}}', " " * 30], [10], HERMES, False, False)
def test_any_cutting_of_an_answer_gives_the_same(
    fragments: list[str], cuts: list[int], syntax: CallSyntax, opened: bool, one: bool
) -> None:
    answer = "".join(fragments)
    whole = parts_of([answer], syntax, opened=opened, one=one)
    ends = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    cut = parts_of([answer[start:end] for start, end in pairwise(ends)], syntax, opened=opened, one=one)
    letters = parts_of(list(answer), syntax, opened=opened, one=one)
    assert told(cut) == told(letters) == told(whole)
    for parts in (whole, cut, letters):
        joined = "".join(part.text for part in parts)
        assert answer.startswith(joined)
        assert one or joined == answer


TOKENIZER = TextTokenizer(tool_tokenizer(), TokenizerSettings(None))


def read_tokens(text: str, stop: tuple[str, ...] = ()) -> tuple[str, list[TokenLogprob]]:
    """The text that a byte-level model's `text` is read as, and the probabilities told with it."""
    answer = reader(HERMES, stop=stop)
    held = HeldLogprobs(TOKENIZER)
    shown = ""
    logprobs: list[TokenLogprob] = []
    for token in TOKENIZER._encode_rendered(text):
        reading = answer.read(token)
        shown += reading.text
        logprobs += held.take(Ranked(token, -1.0, ()), answer, reading.parts)
        assert b"".join(entry.raw for entry in logprobs).decode(errors="ignore") in (shown, shown.rstrip())
        if answer.stopped:
            break
    rest = answer.finish()
    return shown + rest.text, logprobs + list(held.finish(answer, rest.parts))


@pytest.mark.parametrize("text", ["Hé 🐝 llo.", f"<think>hm</think>\n\nHé.<tool_call>{CALL}</tool_call> So 🐝"])
def test_probabilities_are_told_of_text_and_of_nothing_else(text: str) -> None:
    shown, logprobs = read_tokens(text)
    assert b"".join(entry.raw for entry in logprobs).decode() == shown
    assert shown in ("Hé 🐝 llo.", "Hé. So 🐝")


def test_stop_strings_count_in_text_only() -> None:
    answer = f"<think>STOP</think>ok <tool_call>{CALL.replace('Rio', 'STOP')}</tool_call> then STOP more"
    shown, logprobs = read_tokens(answer, stop=("STOP",))
    assert shown == "ok then "
    assert b"STOP" not in b"".join(entry.raw for entry in logprobs)


def test_marks_that_are_control_tokens_are_seen() -> None:
    answer = PartsReader(
        TOKENIZER.spelling_stream(MISTRAL.marks), StopStrings(()), None,
        CallReader(MISTRAL, NAMES, call_ids(None, 0), only_one=False),
    )  # fmt: skip
    ids = TOKENIZER._encode_rendered(f"ok[TOOL_CALLS][{CALL}]")
    readings = [answer.read(token) for token in ids]
    assert "".join(reading.text for reading in readings) == "ok"
    assert [call.name for reading in readings for call in reading.calls] == ["weather"]


def test_ids_of_calls_are_unlike_and_repeat_with_their_seed() -> None:
    first, again, other = call_ids(3, 0), call_ids(3, 0), call_ids(None, 0)
    ids = [first(), first()]
    assert [again(), again()] == ids
    assert len({*ids, other(), call_ids(3, 1)()}) == 4
    assert all(id_.startswith("call_") and len(id_) == 13 and id_[5:].isalnum() for id_ in ids)
