"""A text engine over a tiny random model, and how tests talk to it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from domain.generation import GenerationRequest, SamplingParams, TextChunk
from domain.model import LoadOptions, ModelSpec, Task, WeightFormat
from domain.prompt import Prompt, RawText
from models.inference_thread import InferenceThread
from models.text.engine import TextEngine
from models.text.loader import EngineOptions, load_text
from models.text.parked import WaitingPlace
from models.text.placement import place_text
from models.text.scheduler import Limits, Step
from models.text.weights import Precision

SPEC = ModelSpec("tiny:latest", "Tiny", Task.TEXT, WeightFormat.SAFETENSORS)
PROMPT = RawText("Once upon a time")
LIMITS = Limits(max_running=4, chunk=32, max_prefill_tokens=64)


class Gate:
    """Stands before a runner: lets steps pass, holds them, or makes them fail. `tokens` counts those computed."""

    def __init__(self, runner: object) -> None:
        self._runner = runner
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.poison: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.tokens = 0

    def run(self, step: Step) -> torch.Tensor:
        self.entered.release()
        assert self.open.wait(20)
        self.tokens += step.tokens
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        logits: torch.Tensor = self._runner.run(step)  # type: ignore[attr-defined]
        return self.poison(logits) if self.poison else logits


@contextmanager
def talking(
    directory: Path,
    *,
    limits: Limits = LIMITS,
    max_waiting: int = 4,
    cache_bytes: int = 1 << 22,
    int8: bool = False,
    device: str = "cpu",
    num_ctx: int = 0,
    speculation: bool = True,
    place: WaitingPlace | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[TextEngine]:
    """An engine over the model in `directory`, on a thread of its own; in float32, unless its products are `int8`.

    On a GPU in what the GPU is thought to be best at, unless `dtype` is another one.
    """
    chosen = Precision(int8, dtype or torch.float32)
    if device != "cpu" and dtype is None:
        chosen = place_text(LoadOptions(device=device)).precision
    thread = InferenceThread("test")
    yield load_text(
        SPEC,
        directory,
        lambda layout: directory.parent / layout,
        device=torch.device(device),
        precision=chosen,
        quantization="int8" if int8 else "none",
        num_ctx=num_ctx,
        cache_bytes=cache_bytes,
        options=EngineOptions(limits, max_waiting=max_waiting, speculation=speculation),
        threads=2,
        thread=thread,
        on_progress=lambda _: None,
        place=place,
    )
    thread.close()


def gated(engine: TextEngine) -> Gate:
    """A gate before the engine's runner."""
    gate = Gate(engine._runner)
    engine._runner = gate
    return gate


def ask(max_tokens: int = 8, prompt: Prompt = PROMPT, **sampling: Any) -> GenerationRequest:
    """A request for exactly `max_tokens` tokens, greedy unless `sampling` says otherwise."""
    options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "max_tokens": max_tokens, **sampling}
    return GenerationRequest(prompt, SamplingParams(**options))


async def collect(stream: AsyncGenerator[TextChunk, None]) -> tuple[str, TextChunk]:
    """The text of the one answer, and its last chunk."""
    chunks = [chunk async for chunk in stream]
    assert [chunk.finish is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return "".join(chunk.text for chunk in chunks), chunks[-1]


async def collect_all(stream: AsyncGenerator[TextChunk, None]) -> list[str]:
    """The texts of all answers, each of which ends exactly once."""
    texts: dict[int, str] = {}
    finished: set[int] = set()
    async for chunk in stream:
        assert chunk.index not in finished
        texts[chunk.index] = texts.get(chunk.index, "") + chunk.text
        if chunk.finish is not None:
            finished.add(chunk.index)
    assert finished == set(range(len(texts)))
    return [texts[index] for index in sorted(texts)]


async def entered(gate: Gate) -> None:
    """Until a step has come to the gate."""
    assert await asyncio.to_thread(gate.entered.acquire, timeout=20)


async def idle(engine: TextEngine) -> None:
    """Until the owner thread has nothing left; then every gauge must be at zero and every block free."""
    scheduler = engine._answering.scheduler
    while True:
        counts = await engine._thread.submit(lambda: (len(list(scheduler.alive())), len(engine._answering.answers)))
        if counts == (0, 0) and engine._inbox.empty():
            break
    await engine._thread.submit(lambda: scheduler.blocks.check([]))
    assert scheduler.blocks.num_free == scheduler.blocks.num_blocks
    assert (engine._admission.requests, engine._admission.tokens) == (0, 0)
    assert not engine._answering.sampler._rules
