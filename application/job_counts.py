"""How many jobs wait and run, a moment ago, for whoever asks often and must not wait."""

import asyncio
import logging
from dataclasses import dataclass

from application.job_ports import JobRules
from application.ports import Clock
from domain.errors import IngleError

FRESH_SECONDS = 2.0
PATIENCE = 0.5

_log = logging.getLogger("ingle.jobs")


@dataclass(frozen=True, slots=True)
class Counted:
    """Jobs that are not over."""

    pending: int
    running: int


class JobCounts:
    """Counts at most once in FRESH_SECONDS, however many ask."""

    def __init__(self, rules: JobRules, clock: Clock, *, patience: float = PATIENCE) -> None:
        """`patience` is how many seconds the database may take."""
        self._patience = patience
        self._rules = rules
        self._clock = clock
        self._counting: asyncio.Task[Counted | None] | None = None
        self._counted_at = 0.0

    async def now(self) -> Counted | None:
        """The counts; None where the database does not tell them at once."""
        if self._counting is None or self._clock.monotonic() - self._counted_at >= FRESH_SECONDS:
            self._counted_at = self._clock.monotonic()
            self._counting = asyncio.create_task(self._count(), name="count jobs")
        return await asyncio.shield(self._counting)

    async def _count(self) -> Counted | None:
        try:
            async with asyncio.timeout(self._patience):
                queues = await self._rules.queues()
        except (IngleError, TimeoutError) as error:
            _log.warning("jobs cannot be counted: %s", error)
            return None
        return Counted(sum(queue.pending for queue in queues), sum(queue.running for queue in queues))
