"""Thinking, calls and text told apart as an answer comes, however it is cut into pieces."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.generation import TokenLogprob
from models.text.call_ids import call_ids
from models.text.decoding import StopStrings
from models.text.marks import (
    HERMES,
    MISTRAL,
    CallSyntax,
)
from models.text.reading import PartsReader
from models.text.sampler import Ranked
from models.text.shown_logprobs import HeldLogprobs
from models.text.tokenizer import TextTokenizer, TokenizerSettings
from models.text.tools import CallReader
from tests.models.cutting import CALL, FRAGMENTS, RIO, SYNTAXES, TOOLS, parts_of, read, reader, told
from tests.models.tiny import tool_tokenizer


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
        CallReader(MISTRAL, TOOLS, call_ids(None, 0), only_one=False),
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
