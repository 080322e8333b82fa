"""A cache of keys and values that takes memory as it needs it, and gives back what is idle."""

import asyncio
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from domain.errors import Overloaded
from domain.generation import SamplingParams
from domain.prompt import RawText
from models.text.cache_memory import CacheMemory, CacheUse
from models.text.engine import TextEngine
from models.text.kv_cache import KVCache
from models.text.scheduler import Limits, Scheduler
from models.text.sequence import Sequence
from tests.models.talking import ask, collect_all, talking
from tests.models.tiny import save_tiny

CPU = torch.device("cpu")
BLOCK = 32


class Purse:
    """A budget of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0
        self.lacked: list[int] = []
        self.is_heard = False
        self.watched: weakref.WeakSet[CacheMemory] = weakref.WeakSet()

    def watch(self, cache: CacheMemory) -> None:
        self.watched.add(cache)

    def grant(self, size: int, take: Callable[[], None]) -> bool:
        self.asked += 1
        if size > self.size:
            return False
        self.size -= size
        take()
        return True

    def lacks(self, size: int) -> bool:
        self.lacked.append(size)
        return self.is_heard


def rows(blocks: int) -> KVCache:
    """4 KiB a plane and block, in two layers: four pages a block."""
    return KVCache(2, blocks, BLOCK, 1, 32, dtype=torch.float32, device=CPU)


def sequence(number: int, tokens: int) -> Sequence:
    return Sequence(number, list(range(tokens)), SamplingParams(), 1, frozenset(), arrival=0.0)


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_rows_take_memory_when_they_are_written_and_give_it_back() -> None:
    before = resident_bytes()
    cache = KVCache(4, 4096, BLOCK, 2, 64, dtype=torch.float32, device=CPU)
    size = 4096 * cache.block_bytes
    assert size == 512 << 20
    assert resident_bytes() - before < 16 << 20
    some = torch.arange(1024 * BLOCK)
    keys = torch.ones(len(some), 2, 64)
    for layer in range(4):
        cache.write(layer, some, keys, keys)
    assert resident_bytes() - before > 100 << 20
    cache.discard(range(1, 1024))
    assert resident_bytes() - before < 64 << 20
    kept, gone = cache.read(3, slice(0, BLOCK)), cache.read(3, slice(BLOCK, 1024 * BLOCK))
    assert all(bool((tensor == 1.0).all()) for tensor in kept), "the blocks that were not given back keep their rows"
    assert not any(bool(tensor.any()) for tensor in gone)


def test_what_is_promised_can_be_had_and_more_only_from_the_budget() -> None:
    purse = Purse(0)
    memory = CacheMemory(rows(100), promised_tokens=10 * BLOCK, wanted_tokens=50 * BLOCK, budget=purse)
    assert memory.blocks.num_granted == 10
    assert memory.blocks.has_free(10)
    assert not memory.blocks.has_free(11)
    purse.size = 1 << 30
    assert memory.blocks.has_free(11)
    assert memory.blocks.num_granted == 42, "a slab at once, so that it asks seldom"
    assert not memory.blocks.has_free(101)
    assert memory.blocks.has_free(100)


def test_room_that_is_too_small_for_a_slab_is_enough_for_what_is_missing() -> None:
    cache = rows(100)
    purse = Purse(2 * cache.block_bytes)
    memory = CacheMemory(cache, promised_tokens=10 * BLOCK, wanted_tokens=0, budget=purse)
    assert memory.blocks.has_free(12)
    assert memory.blocks.num_granted == 12


def test_a_wish_that_is_refused_is_told_and_waits_only_if_somebody_hears_it() -> None:
    cache = rows(100)
    purse = Purse(0)
    memory = CacheMemory(cache, promised_tokens=10 * BLOCK, wanted_tokens=50 * BLOCK, budget=purse)
    assert purse.lacked == [], "nobody leaves for what is only convenient"
    assert not memory.blocks.has_free(12)
    assert purse.lacked == [32 * cache.block_bytes], "a slab, so that it need not ask again soon"
    assert not memory.awaits_more
    purse.is_heard = True
    assert not memory.blocks.has_free(12)
    assert memory.awaits_more
    purse.size = 1 << 30
    assert memory.blocks.has_free(12)
    assert not memory.awaits_more


def test_untouched_blocks_are_counted_until_somebody_uses_them() -> None:
    cache = rows(100)
    memory = CacheMemory(cache, 10 * BLOCK, 0, Purse(0))
    assert memory.untouched_bytes == 10 * cache.block_bytes
    user = sequence(1, 3 * BLOCK)
    assert memory.blocks.grow(user, 3 * BLOCK)
    assert memory.untouched_bytes == 7 * cache.block_bytes
    memory.blocks.release(user)
    assert memory.untouched_bytes == 7 * cache.block_bytes


def test_what_is_idle_is_given_back_down_to_what_is_promised() -> None:
    cache = rows(100)
    memory = CacheMemory(cache, 10 * BLOCK, 100 * BLOCK, Purse(1 << 30))
    assert memory.blocks.num_granted == 100
    gone, stays = sequence(1, 40 * BLOCK), sequence(2, 3 * BLOCK)
    for user in (gone, stays):
        assert memory.blocks.grow(user, len(user.ids))
        user.computed = len(user.ids)
        memory.blocks.publish(user, 0)
    memory.blocks.release(gone)
    size = cache.block_bytes
    assert memory.use() == CacheUse(100 * size, 3 * size, 40 * size)
    memory.give_back()
    memory.blocks.check([stays])
    assert memory.use() == CacheUse(10 * size, 3 * size, 0)
    assert memory.untouched_bytes == 7 * size
    again = sequence(3, 40 * BLOCK)
    memory.blocks.match_prefix(again)
    assert not again.blocks, "what was given back is not found again"
    assert memory.blocks.grow(again, len(again.ids))
    memory.blocks.check([stays, again])


def test_blocks_in_use_are_kept_even_beyond_what_is_promised() -> None:
    memory = CacheMemory(rows(100), 2 * BLOCK, 100 * BLOCK, Purse(1 << 30))
    user = sequence(1, 5 * BLOCK)
    assert memory.blocks.grow(user, 5 * BLOCK)
    memory.give_back()
    assert memory.blocks.num_granted == 5
    memory.blocks.check([user])


def test_a_closed_cache_is_gone_even_while_somebody_knows_its_blocks() -> None:
    memory = CacheMemory(rows(100), 2 * BLOCK, 0, Purse(0))
    seen, blocks = weakref.ref(memory), memory.blocks
    memory.close()
    del memory
    assert seen() is None
    assert not blocks.has_free(3)


def test_who_can_get_no_block_while_nobody_runs_is_named() -> None:
    memory = CacheMemory(rows(100), 2 * BLOCK, 0, Purse(0))
    scheduler = Scheduler(memory.blocks, Limits(chunk=32, max_prefill_tokens=64))
    long, short = sequence(1, 5 * BLOCK), sequence(2, BLOCK)
    scheduler.add(long)
    assert not scheduler.schedule().work
    assert scheduler.stranded is long
    scheduler.finish(long, None)
    scheduler.add(short)
    assert scheduler.schedule().work
    assert scheduler.stranded is None


class Scarce:
    """Holds back all but two of an engine's blocks until there is room."""

    def __init__(self, engine: TextEngine) -> None:
        self.blocks = engine._answering.scheduler.blocks
        self.has_room = False
        self.asked_first = threading.Event()
        self.blocks._withheld, self.blocks._ask = sorted(self.blocks._free)[2:], self.ask
        self.blocks._free = type(self.blocks._free).fromkeys(range(2))
        engine._answering._awaits_memory = lambda: True

    def ask(self, missing: int) -> int:
        self.asked_first.set()
        return missing if self.has_room else 0


async def test_a_text_that_finds_no_memory_waits_without_work_until_room_was_made_for_it(tmp_path: Path) -> None:
    with talking(save_tiny(tmp_path / "model", talks=True)) as engine:
        alone = await collect_all(engine.generate(ask(4, RawText("x" * 200))))
        await engine.give_back_cache()
        scarce = Scarce(engine)
        answer = asyncio.create_task(collect_all(engine.generate(ask(4, RawText("x" * 200)))))
        assert await asyncio.to_thread(scarce.asked_first.wait, 20)
        assert not await engine._thread.submit(engine.step), "it has the thread sleep"
        assert not answer.done()
        scarce.has_room = True
        engine._thread.wake()
        assert await answer == alone


async def test_a_text_that_finds_no_memory_fails_alone_and_may_be_tried_again(tmp_path: Path) -> None:
    with talking(save_tiny(tmp_path / "model", talks=True)) as engine:
        blocks = engine._answering.scheduler.blocks
        spare = blocks.num_granted - 2
        blocks._withheld, blocks._ask = sorted(blocks._free)[2:], None
        blocks._free = type(blocks._free).fromkeys(range(2))
        with pytest.raises(Overloaded, match="in use by other models"):
            await collect_all(engine.generate(ask(4, RawText("x" * 200))))
        short = await asyncio.gather(*(collect_all(engine.generate(ask(4, RawText("x")))) for _ in range(3)))
        assert len(short) == 3
        blocks.grant(spare)
        assert await collect_all(engine.generate(ask(4, RawText("x" * 200))))
        await engine.give_back_cache()
        assert await collect_all(engine.generate(ask(4, RawText("x" * 200))))
