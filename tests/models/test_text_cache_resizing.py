"""A cache on a device that gives no address space: it is copied to grow and to shrink, and every answer stays the same.

On a CPU such a cache is made for the tests only; a GPU has no other.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from domain.errors import Overloaded
from domain.model import Model
from domain.prompt import RawText
from models.inference_thread import InferenceThread
from models.text.admission import Admission
from models.text.cache_memory import CacheMemory
from models.text.engine import TextEngine
from models.text.execution import runner_for
from models.text.kv_cache import KVCache
from models.text.loader import heads_of
from models.text.scheduler import Scheduler
from models.text.sequence import Sequence
from tests.models.running import load_tiny
from tests.models.talking import LIMITS, SPEC, ask, collect_all, talking
from tests.models.test_text_cache_memory import Purse, sequence
from tests.models.tiny import save_tiny

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
BLOCK = 8
RICH = 1 << 30


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(str(request.param))


class Counted(KVCache):
    """Remembers how many blocks it was told to have, and has room for so many."""

    room = 1 << 30

    def resize(self, held: int) -> None:
        self.sizes = [*getattr(self, "sizes", []), held]
        if held > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        super().resize(held)


def rows(blocks: int, held: int | None = None, device: torch.device = CPU) -> Counted:
    return Counted(2, blocks, BLOCK, 1, 4, dtype=torch.float32, device=device, held=held, is_address_space=False)


def filled(cache: KVCache, blocks: int) -> torch.Tensor:
    """`[tokens, 1, 4]` numbers that both layers have as keys, and doubled as values."""
    some = torch.arange(blocks * BLOCK, device=cache.read(0, slice(0, 0))[0].device)
    numbers = some.float()[:, None, None].expand(-1, 1, 4).contiguous()
    for layer in range(2):
        cache.write(layer, some, numbers, 2 * numbers)
    return numbers


def use(memory: CacheMemory, number: int, blocks: int) -> Sequence:
    user = sequence(number, blocks * BLOCK)
    assert memory.blocks.grow(user, blocks * BLOCK)
    return user


# -- the cache and its blocks ---------------------------------------------------------------------------


def test_what_lies_in_blocks_that_stay_is_kept(device: torch.device) -> None:
    cache = rows(100, 4, device)
    numbers = filled(cache, 4)
    for held in (9, 6, 3):
        cache.resize(held)
        kept = min(held, 4) * BLOCK
        for layer in range(2):
            keys, values = cache.read(layer, slice(0, kept))
            assert torch.equal(keys, numbers[:kept])
            assert torch.equal(values, 2 * numbers[:kept])
        assert (cache.held, cache.tokens) == (held, 100 * BLOCK)


def test_it_begins_with_what_is_promised_grows_by_half_and_has_memory_for_what_is_granted() -> None:
    cache = rows(1000, 0)
    memory = CacheMemory(cache, 300 * BLOCK, 900 * BLOCK, Purse(RICH))
    assert (cache.held, memory.blocks.num_granted) == (300, 300)
    assert memory.blocks.has_free(301)
    assert (cache.held, memory.blocks.num_granted) == (450, 450)
    assert memory.blocks.has_free(1000)
    assert cache.held == 1000
    assert memory.untouched_bytes == 0, "what is granted is held"


def test_the_budget_is_asked_for_what_the_copy_takes_on_the_way_too() -> None:
    cache = rows(100, 0)
    purse = Purse(0)
    memory = CacheMemory(cache, 10 * BLOCK, 0, purse)
    # Two more blocks, and for a moment one of two layers of twelve.
    purse.size = 2 * cache.block_bytes + 12 * cache.block_bytes // 2
    assert not memory.blocks.has_free(13)
    assert (cache.held, cache.sizes) == (10, [10]), "nothing is copied for a wish that is refused"
    assert memory.blocks.has_free(12)
    assert (cache.held, purse.size) == (12, 0)


def test_it_shrinks_to_what_is_promised_or_the_last_block_in_use() -> None:
    cache = rows(200, 0)
    memory = CacheMemory(cache, 10 * BLOCK, 0, Purse(RICH))
    first, second, third = (use(memory, number, blocks) for number, blocks in ((1, 40), (2, 30), (3, 60)))
    memory.blocks.release(third)
    memory.blocks.release(first)
    memory.give_back()
    last = max(second.blocks) + 1
    assert last > 30, "its blocks lie behind those of the first one"
    assert cache.held == memory.blocks.num_granted == last
    memory.blocks.check([second])
    again = use(memory, 4, 40)
    assert cache.held == last, "what lies before them can be used"
    memory.blocks.release(again)
    memory.blocks.release(second)
    memory.give_back()
    assert cache.held == memory.blocks.num_granted == 10
    memory.blocks.check([])


def test_a_device_that_is_full_all_the_same_refuses_and_keeps_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    cache = rows(100, 0)
    cache.room = 20
    purse = Purse(RICH)
    purse.is_heard = True
    memory = CacheMemory(cache, 10 * BLOCK, 0, purse)
    numbers = filled(cache, 10)
    assert not memory.blocks.has_free(21)
    assert "cannot be resized to 100" in caplog.text
    assert (cache.held, memory.blocks.num_granted, memory.untouched_bytes) == (10, 10, 0)
    assert not memory.awaits_more and not purse.lacked, "nobody can make room that the budget already sees"
    assert torch.equal(cache.read(1, slice(0, 80))[0], numbers)
    assert memory.blocks.has_free(20)
    assert cache.held == 20


# -- engines --------------------------------------------------------------------------------------------


@asynccontextmanager
async def growing(directory: Path, purse: Purse, device: torch.device) -> AsyncGenerator[tuple[TextEngine, Counted]]:
    """An engine whose cache is promised four blocks."""
    loaded = load_tiny(directory, device=device)
    shape = (loaded.config.num_hidden_layers, 512, BLOCK, *heads_of(loaded.config))
    cache = Counted(*shape, dtype=torch.float32, device=device, held=0, is_address_space=False)
    runner = runner_for(loaded, cache, device, limits=LIMITS, context=512, threads=2)
    memory = CacheMemory(cache, 4 * BLOCK, 0, purse)
    info = Model(SPEC).loaded(
        device=str(device), dtype="float32", quantization="none", context_length=512, memory_bytes=0, load_time_ms=0
    )
    thread = InferenceThread("test")
    scheduler = Scheduler(memory.blocks, LIMITS)
    engine = TextEngine(info, loaded.tokenizer, scheduler, runner, thread, Admission(8, 8192), cache=memory)
    try:
        yield engine, cache
    finally:
        await engine.close()
        thread.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", talks=True)


PROMPTS = [RawText(f"{letter} once upon a time " * 4) for letter in "abc"]


async def test_texts_are_the_same_token_for_token_while_the_cache_grows_and_shrinks_under_them(
    directory: Path, device: torch.device
) -> None:
    with talking(directory, device=str(device), dtype=torch.float32) as fixed:
        requests = [ask(60, prompt) for prompt in PROMPTS]
        alone = [await collect_all(fixed.generate(request)) for request in requests]
    async with growing(directory, Purse(RICH), device) as (engine, cache):
        for request, expected in zip(requests, alone, strict=True):
            assert await collect_all(engine.generate(request)) == expected
            await engine.give_back_cache()
            assert cache.held == 4
        if device.type == "cpu":
            # Steps of several texts compute the same there, whoever comes together.
            together = [asyncio.create_task(collect_all(engine.generate(request))) for request in requests]
            while not all(task.done() for task in together):
                await engine.give_back_cache()
            assert [await task for task in together] == alone
        await engine.give_back_cache()
        assert cache.held == 4
        assert len({*cache.sizes}) > 2
        await engine._thread.submit(lambda: engine._answering.scheduler.blocks.check([]))


async def test_a_text_waits_for_room_that_is_made_for_it_and_is_the_same(directory: Path) -> None:
    request = ask(30, PROMPTS[0])
    with talking(directory) as fixed:
        alone = await collect_all(fixed.generate(request))
    purse = Purse(0)
    purse.is_heard = True
    async with growing(directory, purse, CPU) as (engine, cache):
        answer = asyncio.create_task(collect_all(engine.generate(request)))
        while not purse.lacked:
            await engine._thread.submit(lambda: None)
        assert not answer.done()
        purse.size = RICH
        engine._thread.wake()
        assert await answer == alone
        assert cache.held > 4


async def test_a_text_that_finds_no_memory_on_the_device_fails_alone(directory: Path) -> None:
    async with growing(directory, Purse(RICH), CPU) as (engine, cache):
        cache.room = 5
        with pytest.raises(Overloaded, match="in use by other models"):
            await collect_all(engine.generate(ask(4, PROMPTS[0])))
        assert await collect_all(engine.generate(ask(4, RawText("x"))))
        cache.room = RICH
        assert await collect_all(engine.generate(ask(4, PROMPTS[0])))
