"""Prompts and answers at the edges of what there is: nothing, nothing but marks, far too much, any script."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from domain.generation import FinishReason
from domain.prompt import Chat, Message, RawText, Role, TokenIds
from models.text.engine import TextEngine
from models.text.native.library import library, why_not
from models.text.scheduler import Limits
from tests.models.scripted import follow_script
from tests.models.talking import LIMITS, Gate, ask, collect, entered, gated, idle, talking
from tests.models.tiny import save_tiny

SPECIAL = TokenIds((1, 2, 1, 0))
SCRIPTS = "Привет, 🙂 мир! 👩‍👩‍👧 Ёлка — это 🌲, 日本語も。"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", talks=True)


@pytest.fixture
def engine(directory: Path) -> Iterator[TextEngine]:
    with talking(directory) as engine:
        yield engine


@pytest.fixture
def gate(engine: TextEngine) -> Iterator[Gate]:
    gate = gated(engine)
    yield gate
    gate.open.set()


async def test_a_prompt_of_nothing_is_refused(engine: TextEngine) -> None:
    with pytest.raises(InvalidRequest, match="empty") as refused:
        await collect(engine.generate(ask(4, RawText(""))))
    assert refused.value.field == "prompt"
    await idle(engine)


async def test_a_prompt_of_nothing_but_special_tokens_is_answered(engine: TextEngine) -> None:
    text, last = await collect(engine.generate(ask(8, SPECIAL)))
    assert last.finish is not None
    assert (last.finish.usage.prompt_tokens, last.finish.usage.completion_tokens, len(text)) == (4, 8, 8)
    spelled = RawText("<|im_start|><|im_end|><|im_start|><|endoftext|>")
    assert (await collect(engine.generate(ask(8, spelled))))[0] == text


async def test_a_prompt_of_a_hundred_thousand_tokens_is_refused_while_others_are_answered(engine: TextEngine) -> None:
    async with aclosing(engine.generate(ask(300))) as writing:
        await anext(writing)
        long = asyncio.create_task(collect(engine.generate(ask(4, RawText("Привет 🙂" * 6_250)))))
        silence, before = 0.0, time.monotonic()
        while not long.done():
            await asyncio.sleep(0)
            silence, before = max(silence, time.monotonic() - before), time.monotonic()
        with pytest.raises(ContextLengthExceeded) as refused:
            await long
        assert refused.value.details == {"prompt_tokens": 106_250, "context_length": 512}
        assert silence < 1.0
        await anext(writing)
    await idle(engine)


@pytest.mark.skipif(library() is None, reason=f"needs native kernels: {why_not()}")
async def test_a_prompt_of_a_hundred_thousand_tokens_is_read_where_the_context_holds_it(tmp_path: Path) -> None:
    # Each token sees so few others that reading them takes a second.
    shape: dict[str, Any] = {"num_hidden_layers": 1, "sliding_window": 512, "max_position_embeddings": 131_072}
    directory = save_tiny(tmp_path / "model", "mistral", talks=True, **shape)
    limits = Limits(max_running=4, chunk=256, max_prefill_tokens=512)
    ids = tuple(3 + (place * place + place // 7) % 256 for place in range(100_000))
    with talking(directory, limits=limits, int8=True, cache_bytes=1 << 26) as engine:
        gate = gated(engine)
        reading = asyncio.create_task(collect(engine.generate(ask(4, TokenIds(ids)))))
        await entered(gate)
        short, _ = await collect(engine.generate(ask(4)))
        assert len(short) == 4
        assert not reading.done()
        text, last = await reading
        assert last.finish is not None
        assert (last.finish.usage.prompt_tokens, len(text)) == (100_000, 4)
        again, last = await collect(engine.generate(ask(4, TokenIds(ids))))
        assert last.finish is not None
        assert again == text
        assert last.finish.usage.cached_tokens > 99_900
        await idle(engine)


async def test_a_second_request_with_the_same_beginning_skips_it_and_gets_what_it_would_get(engine: TextEngine) -> None:
    text, first = await collect(engine.generate(ask(8, RawText("x" * 100))))
    again, second = await collect(engine.generate(ask(8, RawText("x" * 100))))
    assert first.finish is not None and second.finish is not None
    assert (first.finish.usage.cached_tokens, second.finish.usage.cached_tokens) == (0, 96)
    assert again == text
    _, other = await collect(engine.generate(ask(8, RawText("y" + "x" * 99))))
    assert other.finish is not None
    assert other.finish.usage.cached_tokens == 0


async def test_a_stop_string_may_be_the_first_token(engine: TextEngine) -> None:
    text, _ = await collect(engine.generate(ask(4)))
    chunks = [chunk async for chunk in engine.generate(ask(4, stop=(text[0],)))]
    assert "".join(chunk.text for chunk in chunks) == ""
    finish = chunks[-1].finish
    assert finish is not None
    assert (finish.reason, finish.usage.completion_tokens) == (FinishReason.STOP, 1)
    await idle(engine)


async def test_every_script_is_read_and_written_whole(engine: TextEngine) -> None:
    chat = Chat((Message(Role.USER, SCRIPTS),))
    assert SCRIPTS in await engine.decode(await engine.encode(chat))
    follow_script(engine, SCRIPTS)
    chunks = [chunk.text async for chunk in engine.generate(ask(200, chat, ignore_eos=False))]
    assert "".join(chunks) == SCRIPTS
    assert not any("\ufffd" in piece for piece in chunks)
    # Bytes that belong to one character come together, so there are as many pieces as characters.
    assert [piece for piece in chunks if piece] == list(SCRIPTS)


@pytest.mark.parametrize("stop", ["🙂", "мир", "👩‍👧", "日本", "— это 🌲"])
async def test_a_stop_string_of_any_script_is_found_and_not_shown(engine: TextEngine, stop: str) -> None:
    follow_script(engine, SCRIPTS)
    chunks = [chunk async for chunk in engine.generate(ask(200, stop=(stop,), ignore_eos=False))]
    assert "".join(chunk.text for chunk in chunks) == SCRIPTS[: SCRIPTS.index(stop)]
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP
    assert not any("\ufffd" in chunk.text for chunk in chunks)


async def test_a_character_that_was_cut_off_is_not_shown(engine: TextEngine) -> None:
    follow_script(engine, "a🙂b")
    text, last = await collect(engine.generate(ask(3, ignore_eos=False)))
    assert last.finish is not None
    assert (text, last.finish.reason) == ("a", FinishReason.LENGTH)


async def test_closing_a_stream_while_its_prompt_is_read_frees_its_blocks_within_a_step(
    engine: TextEngine, gate: Gate
) -> None:
    gate.open.clear()
    reading = asyncio.create_task(collect(engine.generate(ask(4, RawText("x" * 400)))))
    await entered(gate)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    gate.open.set()
    await idle(engine)
    assert gate.tokens <= LIMITS.max_prefill_tokens, "its prompt was read on"


async def test_prompts_that_wait_are_bounded_by_their_tokens(engine: TextEngine, gate: Gate) -> None:
    engine._admission._max_tokens = 500
    gate.open.clear()
    blocker = asyncio.create_task(collect(engine.generate(ask(1))))
    await entered(gate)
    waiting = asyncio.create_task(collect(engine.generate(ask(1, RawText("x" * 400)))))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="416 prompt tokens") as refused:
        await collect(engine.generate(ask(1, RawText("x" * 100))))
    assert refused.value.retry_after_seconds >= 1.0
    gate.open.set()
    await asyncio.gather(blocker, waiting)
    await idle(engine)
