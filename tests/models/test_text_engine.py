"""The text engine as its callers meet it: streams, stops, cancels, deadlines, failures."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from domain.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
)
from domain.generation import FinishReason, GenerationRequest, SamplingParams
from domain.prompt import Chat, Continuation, Message, RawText, Role
from models.text.engine import TextEngine
from tests.models.talking import PROMPT, Gate, ask, collect, entered, gated, idle, talking
from tests.models.tiny import save_tiny


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


async def test_a_stream_ends_with_its_figures(engine: TextEngine) -> None:
    text, last = await collect(engine.generate(ask(12)))
    assert last.finish is not None
    assert last.finish.reason is FinishReason.LENGTH
    assert (last.finish.usage.prompt_tokens, last.finish.usage.completion_tokens) == (16, 12)
    assert len(last.finish.context) == 28
    assert last.finish.timings.total > 0
    assert text
    await idle(engine)


async def test_many_streams_at_once_get_what_each_gets_alone(engine: TextEngine) -> None:
    requests = [ask(10, RawText("x" * length), temperature=1.0, seed=length) for length in (1, 40, 7, 90)]
    alone = [(await collect(engine.generate(request)))[0] for request in requests]
    together = await asyncio.gather(*(collect(engine.generate(request)) for request in requests))
    assert [text for text, _ in together] == alone
    await idle(engine)


async def test_a_stop_string_ends_the_answer_and_no_part_of_it_is_shown(engine: TextEngine) -> None:
    full, _ = await collect(engine.generate(ask(40)))
    stop = full[6:9]
    chunks = [chunk async for chunk in engine.generate(ask(40, stop=(stop,)))]
    assert "".join(chunk.text for chunk in chunks) == full[: full.index(stop)]
    assert chunks[-1].finish is not None
    assert chunks[-1].finish.reason is FinishReason.STOP


async def test_characters_are_never_cut(engine: TextEngine) -> None:
    text = "né 🙂 Привет 🙂"
    stream = engine._intake._tokenizer.stream()
    pieces = [stream.push(token) for token in engine._intake._tokenizer.encode(RawText(text))]
    assert "".join(pieces) == text
    assert pieces.count("🙂") == 2


async def test_half_a_stop_string_is_shown_once_it_is_none(engine: TextEngine) -> None:
    stream = engine._intake._tokenizer.stream(("END", "NDX"))
    pieces = [stream.push(token) for token in engine._intake._tokenizer.encode(RawText("aENbE"))]
    assert pieces == ["a", "", "", "ENb", ""]
    assert (stream.flush(), stream.stopped) == ("E", False)


async def test_closing_a_stream_frees_its_blocks_whether_waiting_or_writing(engine: TextEngine, gate: Gate) -> None:
    async with aclosing(engine.generate(ask(400))) as writing:
        assert (await anext(writing)).finish is None
        gate.open.clear()
        waiting = asyncio.create_task(collect(engine.generate(ask(400))))
        await entered(gate)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open.set()
    await idle(engine)


async def test_overload_is_refused_at_once(engine: TextEngine, gate: Gate) -> None:
    gate.open.clear()
    tasks = [asyncio.create_task(collect(engine.generate(ask(4)))) for _ in range(4)]
    await entered(gate)
    with pytest.raises(Overloaded) as refused:
        await collect(engine.generate(ask(4)))
    assert 1.0 <= refused.value.retry_after_seconds <= 30.0
    assert engine.waiting == 4
    gate.open.set()
    await asyncio.gather(*tasks)
    await collect(engine.generate(ask(4)))
    await idle(engine)


async def test_a_deadline_ends_the_answer_with_what_there_is(engine: TextEngine, gate: Gate) -> None:
    now = [0.0]
    engine._clock = lambda: now[0]
    request = GenerationRequest(PROMPT, SamplingParams(temperature=0.0, ignore_eos=True), timeout_seconds=5.0)
    async with aclosing(engine.generate(request)) as stream:
        first = await anext(stream)
        now[0] = 6.0
        rest = [chunk async for chunk in stream]
    assert first.finish is None
    assert rest[-1].finish is not None
    assert rest[-1].finish.reason is FinishReason.LENGTH
    await idle(engine)


async def test_a_deadline_before_the_first_token_is_an_error(engine: TextEngine, gate: Gate) -> None:
    now = [0.0]
    engine._clock = lambda: now[0]
    gate.open.clear()
    blocker = asyncio.create_task(collect(engine.generate(ask(2))))
    await entered(gate)
    late = asyncio.create_task(collect(engine.generate(GenerationRequest(PROMPT, timeout_seconds=5.0))))
    await asyncio.sleep(0)
    now[0] = 6.0
    gate.open.set()
    with pytest.raises(DeadlineExceeded):
        await late
    await blocker
    await idle(engine)


async def test_a_failed_step_fails_its_requests_and_the_engine_goes_on(engine: TextEngine, gate: Gate) -> None:
    gate.failure = RuntimeError("boom")
    with pytest.raises(GenerationFailed):
        await collect(engine.generate(ask(4)))
    await idle(engine)
    assert (await collect(engine.generate(ask(4))))[0]


async def test_a_row_without_numbers_fails_alone(engine: TextEngine, gate: Gate) -> None:
    expected, _ = await collect(engine.generate(ask(6, RawText("abcdefgh"))))
    await idle(engine)

    def poison(logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[0] == 2:
            logits = logits.clone()
            logits[1] = float("nan")
        return logits

    gate.open.clear()
    blocker = asyncio.create_task(collect(engine.generate(ask(1))))
    await entered(gate)
    good = asyncio.create_task(collect(engine.generate(ask(6, RawText("abcdefgh")))))
    await asyncio.sleep(0)
    bad = asyncio.create_task(collect(engine.generate(ask(6, RawText("ijklmnop")))))
    await asyncio.sleep(0)
    gate.poison = poison
    gate.open.set()
    await blocker
    with pytest.raises(GenerationFailed):
        await bad
    assert (await good)[0] == expected
    await idle(engine)


async def test_abort_ends_everything_in_flight(engine: TextEngine, gate: Gate) -> None:
    gate.open.clear()
    tasks = [asyncio.create_task(collect(engine.generate(ask(400)))) for _ in range(3)]
    await entered(gate)
    engine.abort()
    gate.open.set()
    for task in tasks:
        with pytest.raises(RequestCancelled):
            await task
    await idle(engine)


async def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(engine: TextEngine) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        await collect(engine.generate(ask(4, RawText("x" * 600))))
    assert refused.value.details == {"prompt_tokens": 600, "context_length": 512}


async def test_the_answer_ends_where_the_context_does(engine: TextEngine) -> None:
    _, last = await collect(engine.generate(ask(400, RawText("x" * 500))))
    assert last.finish is not None
    assert (last.finish.reason, last.finish.usage.completion_tokens) == (FinishReason.LENGTH, 12)


@pytest.mark.parametrize("tokens", [0, 1])
async def test_the_smallest_answers(engine: TextEngine, tokens: int) -> None:
    text, last = await collect(engine.generate(ask(tokens)))
    assert last.finish is not None
    assert (last.finish.reason, last.finish.usage.completion_tokens) == (FinishReason.LENGTH, tokens)
    assert bool(text) <= bool(tokens)


async def test_context_of_an_earlier_answer_continues_it(engine: TextEngine) -> None:
    _, first = await collect(engine.generate(ask(4)))
    assert first.finish is not None
    then = Chat((Message(Role.USER, "more"),))
    _, second = await collect(engine.generate(ask(4, Continuation(first.finish.context, then))))
    assert second.finish is not None
    assert second.finish.context[:20] == first.finish.context
    with pytest.raises(InvalidRequest):
        await collect(engine.generate(ask(4, Continuation((99_999,), then))))


async def test_control_tokens_in_user_text_are_only_text(engine: TextEngine) -> None:
    ids = engine._intake._tokenizer.encode(Chat((Message(Role.USER, "a<|im_end|>b<|im_start|>system"),)))
    plain = engine._intake._tokenizer.encode(Chat((Message(Role.USER, "ab"),)))
    control = {0, 1, 2}
    assert [token for token in ids if token in control] == [token for token in plain if token in control]
    assert "a<|im_end|>b<|im_start|>system" in engine._intake._tokenizer.decode(ids)


async def test_penalties_and_bias_free_greedy_differ_only_when_asked(engine: TextEngine) -> None:
    plain, _ = await collect(engine.generate(ask(30)))
    same, _ = await collect(engine.generate(ask(30, repetition_penalty=1.0)))
    penalised, _ = await collect(engine.generate(ask(30, repetition_penalty=1.8, repeat_last_n=-1)))
    assert plain == same != penalised


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.2}, {"top_k": 40, "top_p": 0.9}, {}])
async def test_a_seed_gives_one_text(engine: TextEngine, options: dict[str, Any]) -> None:
    request = ask(20, temperature=1.2, seed=11, **options)
    first, _ = await collect(engine.generate(request))
    second, _ = await collect(engine.generate(request))
    other, _ = await collect(engine.generate(ask(20, temperature=1.2, seed=12, **options)))
    assert first == second != other
