"""Tells a broker which jobs are ready: a wake-up for the workers behind it, never the truth.

The rows say what is to be told, so whatever the broker loses is told again, and a broker that is away loses nothing.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Collection

from application.job_ports import Broker, Dispatchable, WakeUp
from domain.errors import IngleError

AT_ONCE = 200
_ROUND_SECONDS = 5.0

_log = logging.getLogger("ingle.dispatcher")


class Dispatcher:
    """Tells `broker` of ready jobs: at once where a hint says that there are some, else every `round_seconds`.

    Several processes may; none tells what another has just told. `is_up` is whether the broker could be reached lately.
    """

    def __init__(
        self, jobs: Dispatchable, broker: Broker, wake_up: WakeUp, *, round_seconds: float = _ROUND_SECONDS
    ) -> None:
        self._jobs = jobs
        self._broker = broker
        self._wake_up = wake_up
        self._round_seconds = round_seconds
        self._hint = asyncio.Event()
        self._said: bool | None = None
        self.is_up = False

    async def run(self) -> None:
        """Until it is cancelled."""
        forget = self._wake_up.listen(lambda _: self._hint.set())
        try:
            while True:
                self._hint.clear()
                await self._round()
                await self._rest()
        finally:
            forget()
            await self._broker.close()

    async def _rest(self) -> None:
        # The jitter keeps many processes from doing the same at the same moment.
        pause = self._round_seconds * random.uniform(0.8, 1.2)  # noqa: S311
        if not self.is_up:
            # Hints would only make each new job wait for the same broken connection.
            await asyncio.sleep(pause)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hint.wait(), pause)

    async def _round(self) -> None:
        try:
            while (types := await self._broker.open_types()) and await self._tell(types):
                pass
            self._note(types is not None)
        except IngleError as error:
            _log.warning("jobs cannot be dispatched: %s (%s)", error, error.code)

    async def _tell(self, types: Collection[str]) -> bool:
        """Tell of the next jobs; whether there may be more to tell."""
        calls = await self._jobs.undispatched(AT_ONCE, types)
        if not calls:
            return False
        unsent = await self._broker.publish(calls)
        if unsent:
            await self._jobs.untold(unsent)
        return len(calls) == AT_ONCE and not unsent

    def _note(self, is_up: bool) -> None:
        self.is_up = is_up
        if is_up != self._said:
            self._said = is_up
            if is_up:
                _log.info("the broker can be reached")
            else:
                _log.warning("the broker cannot be reached: jobs wait for the next look of a worker")
