"""Statistics that were counted a moment ago."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from application.recent_statistics import FRESH_SECONDS, RecentStatistics
from domain.errors import DatabaseBusy
from tests.fakes.clock import FakeClock


class Counting:
    """JobStatistics that count how often they are asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def stats(self, window_ms: int, owners: Collection[str] | None = None) -> Mapping[str, Any]:
        self.asked += 1
        await self.gate.wait()
        if self.away:
            raise DatabaseBusy
        return {"number": self.asked}

    async def fold(self) -> int:
        return 7


async def test_an_answer_is_given_again_for_two_seconds_and_to_the_same_question_only() -> None:
    counting, clock = Counting(), FakeClock()
    recent = RecentStatistics(counting, clock)
    assert await recent.stats(60_000) == await recent.stats(60_000) == {"number": 1}
    assert await recent.stats(60_000, ["a"]) == await recent.stats(60_000, ("a",)) == {"number": 2}
    assert await recent.stats(1) == {"number": 3}
    clock.advance(FRESH_SECONDS)
    assert await recent.stats(60_000) == {"number": 4}
    assert await recent.fold() == 7


async def test_those_who_ask_at_once_share_a_count_and_one_who_leaves_does_not_end_it() -> None:
    counting = Counting()
    counting.gate.clear()
    recent = RecentStatistics(counting, FakeClock())
    first, second = (asyncio.ensure_future(recent.stats(60_000)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    counting.gate.set()
    assert await second == {"number": 1}


async def test_a_failure_is_told_and_not_kept() -> None:
    counting = Counting()
    counting.away = True
    recent = RecentStatistics(counting, FakeClock())
    with pytest.raises(DatabaseBusy):
        await recent.stats(60_000)
    counting.away = False
    assert await recent.stats(60_000) == {"number": 2}
