"""Workers of other programs, noted when they ask for work."""

import contextlib
from collections.abc import Collection

from application.job_ports import WorkerRecord, WorkerRegister
from application.ports import Clock
from domain.errors import IngleError

KIND = "http"
EVERY_SECONDS = 10.0
REMEMBERED = 10_000


class Attendance:
    """Notes each worker at most every ten seconds: its name is all that is known of it."""

    def __init__(self, register: WorkerRegister, clock: Clock) -> None:
        self._register = register
        self._clock = clock
        self._noted_at: dict[str, float] = {}

    async def note(self, worker_id: str, profiles: Collection[str]) -> None:
        """That worker is there. Whether that could be written matters to nobody's claim."""
        now = self._clock.monotonic()
        if now - self._noted_at.get(worker_id, -EVERY_SECONDS) < EVERY_SECONDS:
            return
        # Put in anew, so that the first in the dictionary is the one that was noted the longest ago.
        self._noted_at.pop(worker_id, None)
        self._noted_at[worker_id] = now
        if len(self._noted_at) > REMEMBERED:
            del self._noted_at[next(iter(self._noted_at))]
        with contextlib.suppress(IngleError):
            await self._register.seen(WorkerRecord(worker_id, worker_id, KIND, "", 0, tuple(sorted(profiles))))
