"""Several streams as one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from api.openai.merging import merged


class Streams:
    """Streams that count up to their length, and how many of them are open."""

    def __init__(self) -> None:
        self.open = 0
        self.given = 0

    async def counting(self, length: int, failure: Exception | None = None) -> AsyncGenerator[int, None]:
        self.open += 1
        try:
            for number in range(length):
                self.given += 1
                yield number
                await asyncio.sleep(0)
            if failure is not None:
                raise failure
        finally:
            self.open -= 1


@pytest.mark.parametrize("lengths", [(3,), (3, 0, 2), (1,) * 64])
async def test_each_stream_comes_whole_and_in_its_order(lengths: tuple[int, ...]) -> None:
    streams = Streams()
    items = [item async for item in merged([streams.counting(length) for length in lengths])]
    for index, length in enumerate(lengths):
        assert [number for stream, number in items if stream == index] == list(range(length))
    assert streams.open == 0


@pytest.mark.parametrize("others", [0, 2])
async def test_the_first_failure_ends_all(others: int) -> None:
    streams = Streams()
    endless = [streams.counting(10**9) for _ in range(others)]
    with pytest.raises(LookupError, match="gone"):
        async for _ in merged([streams.counting(2, LookupError("gone")), *endless]):
            pass
    assert streams.open == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_it_closes_all(count: int) -> None:
    streams = Streams()
    async with aclosing(merged([streams.counting(10**9) for _ in range(count)])) as items:
        await anext(items)
        assert streams.open >= 1
    assert streams.open == 0


async def test_no_stream_runs_far_ahead_of_the_reader() -> None:
    streams = Streams()
    async with aclosing(merged([streams.counting(10**9) for _ in range(3)])) as items:
        await anext(items)
        for _ in range(100):
            await asyncio.sleep(0)
        assert streams.given <= 8
