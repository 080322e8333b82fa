"""Many streams for a while, some cancelled, some invalid: nothing leaks, and nobody gets a wrong text.

INGLE_SOAK_SECONDS says for how long: 5 by default, 120 for a thorough run.
"""

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from domain.constraint import Choice, JsonSchema, Regex
from domain.errors import ContextLengthExceeded, InvalidRequest
from domain.generation import GenerationRequest
from domain.prompt import Chat, Continuation, Message, RawText, Role
from models.text.engine import TextEngine
from models.text.scheduler import Limits
from tests.models.talking import ask, collect_all, idle, talking
from tests.models.tiny import save_tiny

log = logging.getLogger(__name__)

STREAMS = 64
SECONDS = float(os.environ.get("INGLE_SOAK_SECONDS", "5"))
INVALID_SHARE = 0.2
CANCELLED_SHARE = 0.3
# An allocator gives back late; a leak of what each request holds would be many times that.
RSS_SLACK = 24 << 20

INVALID: tuple[Callable[[], GenerationRequest], ...] = (
    lambda: ask(4, RawText("x" * 600)),
    lambda: ask(4, logit_bias=((5000, 1.0),)),
    lambda: ask(4, stop_token_ids=(5000,)),
    lambda: ask(4, Continuation((5000,), Chat((Message(Role.USER, "and then?"),)))),
    lambda: replace(ask(4), constraint=Regex("(")),
    lambda: replace(ask(4), constraint=JsonSchema('{"not": {}}')),
    lambda: ask(4, temperature=float("nan")),
)


@pytest.fixture(params=["float32", "int8"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TextEngine]:
    """Layers of PyTorch in float32, or the native kernels, where this machine has them, with guesses."""
    # Room for 768 tokens: sixteen answers at once do not fit, so some are preempted.
    limits = Limits(max_running=16, chunk=32, max_prefill_tokens=128, reserve=0)
    directory = save_tiny(tmp_path / "model", talks=True)
    int8 = request.param == "int8"
    cache_bytes = (3 << 17) // (2 if int8 else 1)
    with talking(directory, limits=limits, max_waiting=2 * STREAMS, cache_bytes=cache_bytes, int8=int8) as engine:
        yield engine


def valid(dice: random.Random) -> GenerationRequest:
    """A seeded request with wishes of every kind."""
    shared = "The same beginning for many of them, longer than a block or two of the cache. " * dice.choice([0, 1, 2])
    prompt = RawText(shared + "x" * dice.randint(1, 60))
    options: dict[str, object] = {"temperature": dice.choice([0.0, 0.8, 1.3]), "seed": dice.randint(0, 99)}
    wishes: tuple[dict[str, object], ...] = (
        {"top_p": 0.8},
        {"typical_p": 0.5},
        {"logprobs": 2},
        {"stop": ("e",)},
        {"presence_penalty": 1.0},
        {"temperature": 0.0},
        {},
    )
    request = ask(dice.randint(1, 80), prompt, **{**options, **dice.choice(wishes)})
    constraint = dice.choice([None, None, None, Choice(("yes", "no")), Regex("[a-f]{2,30}")])
    return replace(
        request,
        n=dice.choice([1, 1, 1, 3]),
        prompt_logprobs=dice.choice([None, None, None, 2]),
        constraint=constraint,
        client=dice.choice("abc"),
        priority=dice.randint(-1, 1),
    )


@dataclass
class Soak:
    """What the streams do, and a count of how they ended."""

    engine: TextEngine
    known: list[tuple[GenerationRequest, list[str]]]
    ends: Counter[str]

    async def one(self, dice: random.Random) -> None:
        """One request: invalid, cancelled, or read to its end and compared."""
        fate = dice.random()
        if fate < INVALID_SHARE:
            with pytest.raises((InvalidRequest, ContextLengthExceeded)):
                await collect_all(self.engine.generate(dice.choice(INVALID)()))
            self.ends["invalid"] += 1
            return
        request, expected = dice.choice(self.known)
        if fate < INVALID_SHARE + CANCELLED_SHARE:
            await self._leave(request, dice)
            self.ends["cancelled"] += 1
            return
        assert await collect_all(self.engine.generate(request)) == expected
        self.ends["finished"] += 1

    async def _leave(self, request: GenerationRequest, dice: random.Random) -> None:
        """Go away after some chunks, or while the first is still awaited."""
        if dice.random() < 0.3:
            reading = asyncio.create_task(collect_all(self.engine.generate(request)))
            for _ in range(dice.randint(0, 5)):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return
        async with aclosing(self.engine.generate(request)) as stream:
            left = dice.randint(1, 20)
            async for _ in stream:
                left -= 1
                if not left:
                    break

    async def keep_on(self, number: int, until: float) -> None:
        """One of the streams."""
        dice = random.Random(number)
        while time.monotonic() < until:
            await self.one(dice)


@pytest.mark.timeout(SECONDS * 2 + 120)
async def test_many_streams_leave_nothing_behind_and_get_what_each_gets_alone(engine: TextEngine) -> None:
    dice = random.Random(7)
    requests = [valid(dice) for _ in range(24)]
    known = [(request, await collect_all(engine.generate(request))) for request in requests]
    soak = Soak(engine, known, Counter())
    began = time.monotonic()
    rss: list[int] = []
    for end in (began + SECONDS / 2, began + SECONDS):
        await asyncio.gather(*(soak.keep_on(number, end) for number in range(STREAMS)))
        await idle(engine)
        rss.append(psutil.Process().memory_info().rss)
    assert min(soak.ends[kind] for kind in ("invalid", "cancelled", "finished")) > STREAMS / 4, soak.ends
    preempted = engine._answering.scheduler.preemptions
    assert preempted > 0
    log.info("%s: %s, %s preemptions, RSS %s", engine.info.kernel, dict(soak.ends), preempted, rss)
    assert rss[1] - rss[0] < RSS_SLACK, f"{rss[1] - rss[0]} bytes more after the second half: {soak.ends}"
