"""Statistics that were counted a moment ago."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from application.job_ports import JobStatistics
from application.ports import Clock

FRESH_SECONDS = 2.0
REMEMBERED = 256

Question = tuple[int, frozenset[str] | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    document: "asyncio.Task[Mapping[str, Any]]"
    at: float


class RecentStatistics:
    """JobStatistics of which an answer is given again for two seconds; who asks while it is counted waits for it."""

    def __init__(self, statistics: JobStatistics, clock: Clock) -> None:
        self._statistics = statistics
        self._clock = clock
        self._answers: dict[Question, _Answer] = {}

    async def stats(self, window_ms: int, owners: Collection[str] | None = None) -> Mapping[str, Any]:
        """The document, at most two seconds old. One that could not be had is not kept."""
        question = (window_ms, None if owners is None else frozenset(owners))
        now = self._clock.monotonic()
        answer = self._answers.pop(question, None)
        if answer is None or now - answer.at >= FRESH_SECONDS or _has_failed(answer):
            answer = _Answer(asyncio.ensure_future(self._statistics.stats(window_ms, owners)), now)
        self._answers[question] = answer
        while len(self._answers) > REMEMBERED:
            del self._answers[next(iter(self._answers))]
        # The count is everybody's: one who leaves does not end it.
        return await asyncio.shield(answer.document)

    async def fold(self) -> int:
        """Fold minutes that are over."""
        return await self._statistics.fold()


def _has_failed(answer: _Answer) -> bool:
    task = answer.document
    return task.done() and (task.cancelled() or task.exception() is not None)
