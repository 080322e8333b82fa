"""What a request may wish for, through the engine: several answers, early ends, probabilities, ids that exist."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from domain.errors import GenerationFailed, InvalidRequest
from domain.generation import FinishReason, TextChunk
from domain.prompt import RawText
from models.text.engine import TextEngine
from models.text.scheduler import Limits
from tests.models.talking import PROMPT, Gate, ask, collect, collect_all, entered, gated, idle, talking
from tests.models.tiny import byte_tokenizer, save_tiny

LONG = RawText("It was a bright cold day in April, and the clocks were striking thirteen. " * 2)
END = 2


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


async def test_several_answers_share_one_reading_of_the_prompt(engine: TextEngine, gate: Gate) -> None:
    request = replace(ask(5, LONG, temperature=1.0, seed=3), n=4)
    chunks = [chunk async for chunk in engine.generate(request)]
    finishes = {chunk.index: chunk.finish for chunk in chunks if chunk.finish is not None}
    prompt = len(LONG.text)
    whole_blocks = prompt // 32 * 32
    assert {index: finish.usage.cached_tokens for index, finish in finishes.items()} == {
        0: 0, 1: whole_blocks, 2: whole_blocks, 3: whole_blocks
    }  # fmt: skip
    assert {finish.usage.prompt_tokens for finish in finishes.values()} == {prompt}
    assert gate.tokens == prompt + 3 * (prompt - whole_blocks) + 4 * 4
    await idle(engine)


async def test_each_answer_to_a_seed_is_another_and_the_first_is_the_only_ones(engine: TextEngine) -> None:
    single = ask(12, temperature=1.2, seed=8)
    texts = await collect_all(engine.generate(replace(single, n=3)))
    assert len(set(texts)) == 3
    assert texts[0] == (await collect(engine.generate(single)))[0]
    assert texts[:2] == await collect_all(engine.generate(replace(single, n=2)))
    greedy = await collect_all(engine.generate(replace(ask(12), n=3)))
    assert len(set(greedy)) == 1
    await idle(engine)


async def test_more_answers_than_places_take_turns(directory: Path) -> None:
    with talking(directory, limits=Limits(max_running=1, chunk=32, max_prefill_tokens=64)) as engine:
        assert len(await collect_all(engine.generate(replace(ask(3), n=8)))) == 8
        assert await collect_all(engine.generate(replace(ask(0), n=3))) == ["", "", ""]
        await idle(engine)


@pytest.mark.parametrize("heard", [0, 1, 6])
async def test_closing_the_stream_ends_all_its_answers(engine: TextEngine, gate: Gate, heard: int) -> None:
    async with aclosing(engine.generate(replace(ask(400), n=6))) as stream:
        if heard == 0:
            gate.open.clear()
            first = asyncio.create_task(anext(stream))
            await entered(gate)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            gate.open.set()
        for _ in range(heard):
            await anext(stream)
    await idle(engine)
    assert gate.tokens < 400, "one of them went on"


async def test_a_failure_of_one_answer_fails_its_request_and_no_other(engine: TextEngine, gate: Gate) -> None:
    other = asyncio.create_task(collect(engine.generate(ask(30))))
    await entered(gate)
    with pytest.raises(GenerationFailed):
        async with aclosing(engine.generate(replace(ask(400, RawText("x")), n=2))) as stream:
            unseen = {0, 1}
            async for chunk in stream:
                is_last_to_begin = unseen == {chunk.index}
                unseen.discard(chunk.index)
                if is_last_to_begin:
                    engine._tell(lambda: engine._answering._fail(_last(engine), GenerationFailed("one of two")))
    assert (await other)[1].finish is not None
    await idle(engine)


def _last(engine: TextEngine) -> Any:
    return max(engine._answering.answers.values(), key=lambda answer: answer.sequence.id).sequence


async def test_a_waiting_answer_keeps_its_request_counted(directory: Path) -> None:
    with talking(directory, limits=Limits(max_running=1, chunk=32, max_prefill_tokens=64)) as engine:
        async with aclosing(engine.generate(replace(ask(4), n=2))) as stream:
            while (await anext(stream)).index == 0:
                assert engine.waiting == 1
            assert engine.waiting == 0
        await idle(engine)


async def test_stop_tokens_end_an_answer_also_where_the_models_own_do_not(engine: TextEngine) -> None:
    text, _ = await collect(engine.generate(ask(30)))
    stop = text[7]
    short, last = await collect(engine.generate(ask(30, stop_token_ids=(_id(stop),))))
    assert short == text[: text.index(stop)]
    assert last.finish is not None
    assert last.finish.reason is FinishReason.STOP
    until = text.index(stop) + 3
    longer, _ = await collect(engine.generate(ask(30, stop_token_ids=(_id(stop),), min_tokens=until)))
    assert len(longer) >= until
    assert stop not in longer[:until]


async def test_a_stop_string_counts_only_after_min_tokens(engine: TextEngine) -> None:
    text, _ = await collect(engine.generate(ask(40)))
    stop = next(character for character in text if text.count(character) > 1)
    first = text.index(stop)
    second = text.index(stop, first + 1)
    short, _ = await collect(engine.generate(ask(40, stop=(stop,), min_tokens=first)))
    longer, _ = await collect(engine.generate(ask(40, stop=(stop,), min_tokens=first + 1)))
    assert (short, longer) == (text[:first], text[:second])


async def test_the_end_comes_when_it_is_wished_for_but_not_before_min_tokens(engine: TextEngine) -> None:
    wish: dict[str, Any] = {"logit_bias": ((END, 100.0),), "ignore_eos": False}
    text, last = await collect(engine.generate(ask(30, **wish)))
    assert last.finish is not None
    assert (text, last.finish.reason, last.finish.usage.completion_tokens) == ("", FinishReason.STOP, 1)
    _, last = await collect(engine.generate(ask(30, **wish, min_tokens=9)))
    assert last.finish is not None
    assert last.finish.usage.completion_tokens == 10


@pytest.mark.parametrize("wish", [{"stop_token_ids": (3, 259)}, {"logit_bias": ((259, 1.0),)}])
async def test_a_token_that_does_not_exist_is_refused_by_name(engine: TextEngine, wish: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="259") as refused:
        await collect(engine.generate(ask(4, **wish)))
    assert refused.value.field == next(iter(wish))
    await idle(engine)


async def test_probabilities_come_with_the_text_that_they_are_of(engine: TextEngine) -> None:
    chunks = [chunk async for chunk in engine.generate(ask(20, logprobs=2))]
    for chunk in chunks:
        assert b"".join(token.raw for token in chunk.logprobs).decode() == chunk.text
        for token in chunk.logprobs:
            assert token.top[0].logprob == pytest.approx(token.logprob)
            assert token.top[0].logprob >= token.top[1].logprob
    assert sum(len(chunk.logprobs) for chunk in chunks) == 20
    assert all(not chunk.logprobs for chunk in await _chunks(engine, ask(20)))


async def test_probabilities_tell_nothing_of_a_stop_string(engine: TextEngine) -> None:
    text, _ = await collect(engine.generate(ask(30)))
    stop = text[8:12]
    chunks = await _chunks(engine, ask(30, stop=(stop, text[:6] + "\n"), logprobs=0))
    told = b"".join(token.raw for chunk in chunks for token in chunk.logprobs).decode()
    assert told == "".join(chunk.text for chunk in chunks) == text[: text.index(stop)]


async def test_a_character_of_several_tokens_has_the_bytes_of_each(engine: TextEngine) -> None:
    smile = [_id(character) for character in byte_tokenizer().encode("🙂").tokens]
    bias = ((smile[0], 100.0), (smile[1], 99.0), (smile[2], 98.0), (smile[3], 97.0))
    wish: dict[str, Any] = {"logit_bias": bias, "frequency_penalty": 2.0, "logprobs": 0}
    chunks = await _chunks(engine, ask(4, PROMPT, **wish))
    raw = [token.raw for chunk in chunks for token in chunk.logprobs]
    assert [len(piece) for piece in raw] == [1, 1, 1, 1]
    assert raw[0] == "🙂".encode()[:1]


async def _chunks(engine: TextEngine, request: Any) -> list[TextChunk]:
    return [chunk async for chunk in engine.generate(request)]


def _id(character: str) -> int:
    token = byte_tokenizer().token_to_id(character)
    assert token is not None
    return int(token)
