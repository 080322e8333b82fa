"""A piece of work that waits for a provider: how long it may, and how it is ended from outside."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from domain.errors import Overloaded, RequestCancelled

T = TypeVar("T")


class DeadlinePassed(Exception):
    """The time of the work as a whole is over."""


class TooSlow(Exception):
    """One wait took longer than it may."""


class Work:
    """Everything that is done for one caller. It waits for one thing at a time."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._waiting: asyncio.Timeout | None = None
        self._stopped = False
        self.has_begun = False

    @property
    def seconds_left(self) -> float:
        """Until the deadline, never negative."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def wait(self, what: Callable[[], Awaitable[T]], seconds: float) -> T:
        """The result of `what`. Raises TooSlow after `seconds`, DeadlinePassed, or RequestCancelled once stopped."""
        limit = min(seconds, self.seconds_left)
        self._check(limit)
        try:
            async with asyncio.timeout(limit) as self._waiting:
                return await what()
        except TimeoutError:
            self._check(self.seconds_left)
            raise TooSlow from None
        finally:
            self._waiting = None

    def _check(self, seconds_left: float) -> None:
        if self._stopped:
            raise RequestCancelled
        if seconds_left <= 0:
            raise DeadlinePassed

    def stop(self) -> None:
        """End the work: the wait that is under way, and every later one, raises RequestCancelled."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())


class Calls:
    """The work that one model has in hand."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: set[Work] = set()
        self._aborted = False

    @property
    def waiting(self) -> int:
        """How many callers have heard nothing yet."""
        return sum(not work.has_begun for work in self._under_way)

    @contextmanager
    def one_more(self, seconds: float) -> Iterator[Work]:
        """One more piece of work of at most `seconds`. Raises Overloaded, and RequestCancelled after `abort`."""
        if self._aborted:
            raise RequestCancelled
        if len(self._under_way) >= self._limit:
            raise Overloaded("too many requests to this model's provider are under way")
        work = Work(seconds)
        self._under_way.add(work)
        try:
            yield work
        finally:
            self._under_way.discard(work)

    def abort(self) -> None:
        """End all work, for good."""
        self._aborted = True
        for work in list(self._under_way):
            work.stop()
