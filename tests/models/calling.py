"""Engines of every family whose calls are known, all with the same weights, and what is asked of them."""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from domain.constraint import JsonSchema
from domain.generation import FinishReason, GenerationRequest, SamplingParams, TextChunk
from domain.prompt import Chat, Message, Role
from domain.tools import Tool, ToolChoice, ToolMode
from models.text.engine import TextEngine
from tests.models.scripted import follow_script
from tests.models.talking import idle, talking
from tests.models.tiny import CHAT_TEMPLATE, save_tiny

USER = (Message(Role.USER, "the weather?"),)
CITY = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"enum": ["Rio", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
)
WEATHER = Tool("weather", parameters=CITY)
STRICT = replace(WEATHER, strict=True)
TIME = Tool("time")
SAYS_CITY = JsonSchema(CITY)
TEMPLATES = {
    "hermes": CHAT_TEMPLATE + "{# tools <tool_call> #}",
    "llama": CHAT_TEMPLATE + '{# tools "parameters" <|python_tag|> #}',
    "mistral": CHAT_TEMPLATE + "{# tools [TOOL_CALLS] #}",
    "mistral named": CHAT_TEMPLATE + "{# tools [TOOL_CALLS][ARGS] #}",
    "bare": CHAT_TEMPLATE + "{# tools #}",
    "qwen xml": CHAT_TEMPLATE + "{# tools <tool_call> <function= <parameter= #}",
    "deepseek": CHAT_TEMPLATE + "{# tools <｜tool▁sep｜> #}",  # noqa: RUF001
    "deepseek fenced": CHAT_TEMPLATE + "{# tools <｜tool▁sep｜> ```json #}",  # noqa: RUF001
    "thinks": CHAT_TEMPLATE + "{# tools <tool_call> enable_thinking #}",
    "random": CHAT_TEMPLATE + "{# tools <tool_call> #}",
    "random xml": CHAT_TEMPLATE + "{# tools <tool_call> <function= <parameter= #}",
    "opens": CHAT_TEMPLATE + "{# tools <tool_call> #}{% if add_generation_prompt %}<think>\n{% endif %}",
}
REQUIRED = ToolChoice(ToolMode.REQUIRED)


@contextmanager
def engines_of(root: Path) -> Iterator[dict[str, TextEngine]]:
    """One engine for each of TEMPLATES."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(talking(save_tiny(root / name, talks=True, template=template)))
            for name, template in TEMPLATES.items()
        }


def asked(chat: Chat, max_tokens: int = 300, **more: Any) -> GenerationRequest:
    names = ("temperature", "seed", "stop", "logprobs")
    sampling = {name: more.pop(name) for name in names if name in more}
    return GenerationRequest(chat, SamplingParams(**{"temperature": 0.0, "max_tokens": max_tokens, **sampling}), **more)


async def told(stream: AsyncGenerator[TextChunk, None]) -> tuple[str, str, list[tuple[str, Any]], TextChunk]:
    """Text, thinking, calls and last chunk of the one answer."""
    chunks = [chunk async for chunk in stream]
    calls = [(call.name, json.loads(call.arguments)) for chunk in chunks for call in chunk.tool_calls]
    return "".join(chunk.text for chunk in chunks), "".join(chunk.thinking for chunk in chunks), calls, chunks[-1]


async def answer(engine: TextEngine, script: str, chat: Chat, **more: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    follow_script(engine, script)
    text, thinking, calls, last = await told(engine.generate(asked(chat, **more)))
    assert last.finish is not None
    assert last.finish.reason is FinishReason.STOP
    await idle(engine)
    return text, thinking, calls


DEEP_BEGIN, DEEP_CALL, DEEP_NAME = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"  # noqa: RUF001
DEEP_END = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"  # noqa: RUF001
RIO = ("weather", {"city": "Rio"})
SAID = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Rio"}}\n</tool_call>',
    "llama": '{"name": "weather", "parameters": {"city": "Rio"}}',
    "mistral": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rio"}}]',
    "mistral named": '[TOOL_CALLS]weather[ARGS]{"city": "Rio"}',
    "bare": '{"name": "weather", "arguments": {"city": "Rio"}}',
    "qwen xml": "<tool_call>\n<function=weather>\n<parameter=city>\nRio\n</parameter>\n</function>\n</tool_call>",
    "deepseek": f'{DEEP_BEGIN}{DEEP_CALL}weather{DEEP_NAME}{{"city": "Rio"}}{DEEP_END}',
    "deepseek fenced": f'{DEEP_BEGIN}{DEEP_CALL}function{DEEP_NAME}weather\n```json\n{{"city": "Rio"}}\n```{DEEP_END}',
}
