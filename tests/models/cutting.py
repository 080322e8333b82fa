"""How answers with thinking and calls are cut into parts, for tests of what becomes of each."""

import json
from typing import Any

from models.text.call_ids import call_ids
from models.text.decoding import StopStrings, TextStream
from models.text.marks import (
    BARE,
    DEEPSEEK,
    DEEPSEEK_FENCED,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    QWEN_XML,
    CallSyntax,
)
from models.text.parts import Kind, Part
from models.text.reading import PartsReader
from models.text.reasoning import ThinkingReader
from models.text.tools import CallReader
from tests.models.tiny import tool_tokenizer

TOOLS: dict[str, dict[str, Any]] = {
    "weather": {
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "places": {"type": "array"},
            "unit": {"type": ["string", "null"]},
        }
    },
    "time": {},
}
CALL = '{"name": "weather", "arguments": {"city": "Rio"}}'
LLAMA_CALL = CALL.replace("arguments", "parameters")
SYNTAXES = (HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, BARE, QWEN_XML, DEEPSEEK, DEEPSEEK_FENCED)
XML = "<function=weather>\n<parameter=city>\nRio\n</parameter>\n</function>"
DEEP = '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rio"}<｜tool▁call▁end｜>'  # noqa: RUF001
FENCED = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Rio"}\n```<｜tool▁call▁end｜>'  # noqa: RUF001
DEEP_BEGIN, DEEP_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001
Calls = list[tuple[str, object]]

# What models write, and what comes near it.
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>", "```",
    "```json\n", CALL, LLAMA_CALL, f"[{CALL}]", f"[{CALL}, {CALL}]", "weather", '{"city": "Rio"}',
    '{"name": "nobody", "arguments": {}}',
    '{"name": "time"}', '{"name": "weather", "arguments": "Rio"}', '{"name": "weather", "arg', "{", "}", "[", '"', "; ",
    "\n", " ", "<", "</", "tool", "Hello.", '{"text": "</tool_call> \\" }"}', "é🐝",
    XML, "<function=weather>", "<function=", "<parameter=days>\n", "3", "\n</parameter>", "</parameter>", "</function>",
    DEEP, FENCED, DEEP_BEGIN, DEEP_END, DEEP[:17], DEEP[:20],
)  # fmt: skip


def reader(syntax: CallSyntax, *, opened: bool = False, stop: tuple[str, ...] = (), one: bool = False) -> PartsReader:
    calls = CallReader(syntax, TOOLS, call_ids(1, 0), only_one=one)
    stream = TextStream(tool_tokenizer())
    return PartsReader(stream, StopStrings(stop), ThinkingReader(is_open=opened), calls)


def parts_of(pieces: list[str], syntax: CallSyntax, *, opened: bool = False, one: bool = False) -> list[Part]:
    thinking, calls = ThinkingReader(is_open=opened), CallReader(syntax, TOOLS, call_ids(1, 0), only_one=one)
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
