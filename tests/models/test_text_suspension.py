"""A text engine whose weights and cache are taken away in the middle of its work, and given back later."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import torch

from domain.errors import DeadlineExceeded, InsufficientMemory, RequestCancelled
from domain.generation import FinishReason, GenerationRequest, TextChunk
from domain.prompt import RawText
from models.text.engine import TextEngine
from models.text.execution import StepRunner
from models.text.scheduler import Step
from tests.models.talking import ask, collect, collect_all, idle, talking
from tests.models.tiny import save_tiny


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", talks=True)


@pytest.fixture
def engine(directory: Path) -> Iterator[TextEngine]:
    with talking(directory) as engine:
        yield engine


@pytest.fixture
def fresh(directory: Path) -> Iterator[TextEngine]:
    """The same model loaded anew."""
    with talking(directory) as engine:
        yield engine


class Turnstile:
    """Stands before a runner and lets as many steps in as it is told to."""

    def __init__(self, runner: StepRunner | None) -> None:
        self._runner = runner
        self.arrived = threading.Semaphore(0)
        self.let_in = threading.Semaphore(0)

    def run(self, step: Step) -> torch.Tensor:
        assert self._runner is not None
        self.arrived.release()
        assert self.let_in.acquire(timeout=20)
        return self._runner.run(step)


def with_several(request: GenerationRequest, count: int) -> GenerationRequest:
    return GenerationRequest(request.prompt, request.sampling, n=count)


REQUESTS = [
    ask(40),
    ask(40, RawText("abc " * 12), temperature=1.0, seed=7),
    ask(30, RawText("x" * 150), temperature=0.8, seed=3, repetition_penalty=1.3, logprobs=2),
    ask(20, RawText("ab" * 60)),
    with_several(ask(12, temperature=1.0, seed=5), 2),
    ask(25, RawText("one two three")),
]


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 -- what is waited for tells nobody
        await asyncio.sleep(0)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("steps", [1, 3, 14, 33])
async def test_answers_are_what_they_would_have_been(directory: Path, int8: bool, steps: int) -> None:
    with talking(directory, int8=int8, max_waiting=9) as engine, talking(directory, int8=int8) as fresh:
        undisturbed = await asyncio.gather(*(collect_all(engine.generate(request)) for request in REQUESTS))
        turnstile = engine._runner = Turnstile(engine._runner)
        answers = [asyncio.create_task(collect_all(engine.generate(request))) for request in REQUESTS]
        for _ in range(steps - 1):
            turnstile.let_in.release()
        for _ in range(steps):
            assert await asyncio.to_thread(turnstile.arrived.acquire, timeout=20)
        suspending = asyncio.create_task(engine.suspend())
        await asyncio.sleep(0)
        turnstile.let_in.release()
        assert await suspending is None
        assert engine.cache_use().granted == 0
        assert not all(answer.done() for answer in answers)
        await engine.resume(fresh)
        assert await asyncio.gather(*answers) == undisturbed
        await idle(engine)
        assert await collect_all(engine.generate(REQUESTS[0])) == undisturbed[0]


async def test_nothing_is_written_while_the_weights_are_away(engine: TextEngine, fresh: TextEngine) -> None:
    alone, _ = await collect(engine.generate(ask(60)))
    chunks: list[TextChunk] = []

    async def listen() -> None:
        async with aclosing(engine.generate(ask(60))) as stream:
            async for chunk in stream:
                chunks.append(chunk)

    listening = asyncio.create_task(listen())
    await until(lambda: bool(chunks))
    await engine.suspend()
    await engine._thread.submit(lambda: None)
    await asyncio.sleep(0)
    so_far = len(chunks)
    newcomer = asyncio.create_task(collect(engine.generate(ask(60))))
    vector = asyncio.create_task(engine.embed(["some text"]))
    await asyncio.sleep(0.3)
    assert (len(chunks), newcomer.done(), vector.done(), so_far < 60) == (so_far, False, False, True)
    assert engine.waiting == 2
    await engine.resume(fresh)
    await listening
    assert "".join(chunk.text for chunk in chunks) == (await newcomer)[0] == alone
    [held_up], [at_once] = (await vector).vectors, (await engine.embed(["some text"])).vectors
    assert held_up.tolist() == pytest.approx(at_once.tolist(), abs=1e-6)
    await idle(engine)


async def test_a_deadline_passes_all_the_same(engine: TextEngine, fresh: TextEngine) -> None:
    async def timed(seconds: float) -> tuple[str, TextChunk]:
        request = ask(400)
        return await collect(
            engine.generate(GenerationRequest(request.prompt, request.sampling, timeout_seconds=seconds))
        )

    writing = asyncio.create_task(timed(0.4))
    await until(lambda: any(one.new_tokens for one in engine._answering.scheduler.running))
    await engine.suspend()
    with pytest.raises(DeadlineExceeded):
        await timed(0.1)
    text, last = await writing
    assert last.finish is not None
    assert (last.finish.reason, 0 < len(text) < 400) == (FinishReason.LENGTH, True)
    await engine.resume(fresh)
    await idle(engine)


async def test_who_leaves_a_suspended_model_is_gone_at_once(engine: TextEngine, fresh: TextEngine) -> None:
    writing = asyncio.create_task(collect(engine.generate(ask(400))))
    await until(lambda: bool(engine._answering.answers) and not engine.waiting)
    await engine.suspend()
    writing.cancel()
    await asyncio.wait({writing})
    await engine._thread.submit(lambda: None)
    await until(lambda: not engine._answering.answers)
    await engine.resume(fresh)
    await idle(engine)
    assert len((await collect(engine.generate(ask(8))))[0]) == 8


@pytest.mark.parametrize("error", [None, InsufficientMemory("there is no room for it any more")])
async def test_a_suspended_model_can_be_aborted_and_closed(
    engine: TextEngine, error: InsufficientMemory | None
) -> None:
    writing = asyncio.create_task(collect(engine.generate(ask(400))))
    await until(lambda: bool(engine._answering.answers))
    await engine.suspend()
    engine.abort(error)
    with pytest.raises(RequestCancelled if error is None else InsufficientMemory):
        await writing
    with pytest.raises(RequestCancelled):
        await collect(engine.generate(ask(8)))
    assert await engine.close() is None
