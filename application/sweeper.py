"""Chores around jobs, each at its own pace. Every process does them; none of them leads."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from application.job_ports import JobStatistics
from application.stored_files import StoredFiles
from application.webhooks import AT_ONCE, Webhooks
from domain.errors import IngleError
from domain.job_repository import Expire, JobRepository, Promote, Prune, Reap

TELLERS = 4
"""So many rounds of webhooks at a time: two hosts that hang hold up two of them."""

_log = logging.getLogger("ingle.sweeper")


@dataclass(frozen=True, slots=True)
class Paces:
    """Seconds between two rounds of each chore."""

    reap: float = 5.0
    promote: float = 1.0
    webhooks: float = 1.0
    prune: float = 60.0
    files: float = 5.0
    strays: float = 3600.0


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Frees the jobs of dead workers, ends and removes what is over, files too, tells webhooks, folds statistics."""

    jobs: JobRepository
    statistics: JobStatistics
    webhooks: Webhooks
    files: StoredFiles
    paces: Paces = field(default_factory=Paces)
    prune: Prune = field(default_factory=Prune)

    async def run(self) -> None:
        """Until it is cancelled. A chore that fails is tried again in its next round."""
        async with asyncio.TaskGroup() as chores:
            chores.create_task(_rounds("reap", self.paces.reap, self._reap))
            chores.create_task(_rounds("promote", self.paces.promote, self._promote))
            for _ in range(TELLERS):
                chores.create_task(_rounds("webhooks", self.paces.webhooks, self._tell))
            chores.create_task(_rounds("prune", self.paces.prune, self._prune))
            chores.create_task(_rounds("files", self.paces.files, self.files.sweep))
            chores.create_task(_rounds("strays", self.paces.strays, self.files.sweep_strays))

    async def _reap(self) -> None:
        await self.jobs.sweep(Reap())
        await self.jobs.sweep(Expire())

    async def _promote(self) -> None:
        await self.jobs.sweep(Promote())

    async def _tell(self) -> None:
        while await self.webhooks.dispatch() == AT_ONCE:
            pass

    async def _prune(self) -> None:
        # What is folded first may be pruned: no count is lost.
        await self.statistics.fold()
        await self.jobs.sweep(self.prune)


async def _rounds(name: str, seconds: float, chore: Callable[[], Awaitable[object]]) -> None:
    while True:
        # The jitter keeps many processes from doing the same at the same moment.
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311
        try:
            await chore()
        except IngleError as error:
            _log.warning("the chore %s failed: %s (%s)", name, error, error.code)
        except Exception as error:  # the next round may fare better, and the others must go on
            _log.error("the chore %s failed", name, exc_info=error)
