"""What the fake models have in common: being in memory, being aborted, being used by several at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from domain.errors import DeadlineExceeded, IngleError, RequestCancelled
from domain.model import Model
from tests.fakes.gate import Gate


class Work:
    """One open generator of a fake model: pauses at gates, ends at the deadline or when it is aborted.

    It gets on while the gate `weights` is open.
    """

    def __init__(self, timeout_seconds: float | None, weights: Gate) -> None:
        loop = asyncio.get_running_loop()
        self.aborted: asyncio.Future[IngleError] = loop.create_future()
        self._weights = weights
        self.started_at = loop.time()
        self._deadline = None if timeout_seconds is None else self.started_at + timeout_seconds

    async def pause(self, gate: Gate) -> None:
        """Pass `gate`. Raises RequestCancelled after an abort and DeadlineExceeded past the deadline."""
        self._check()
        passing = asyncio.ensure_future(self._pass(gate))
        try:
            remaining = None
            if self._deadline is not None:
                remaining = max(0.0, self._deadline - asyncio.get_running_loop().time())
            either: set[asyncio.Future[Any]] = {passing, self.aborted}
            await asyncio.wait(either, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            self._check()
            if not passing.done():
                raise DeadlineExceeded()
        finally:
            passing.cancel()

    async def _pass(self, gate: Gate) -> None:
        await gate.pass_through()
        await self._weights.pass_through()

    def _check(self) -> None:
        if self.aborted.done():
            raise self.aborted.result()
        if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
            raise DeadlineExceeded()

    def seconds(self) -> float:
        """Since the work began."""
        return asyncio.get_running_loop().time() - self.started_at


class FakeLoadedModel:
    """A LoadedModel without weights.

    Use after the unload, and an unload under open work, are broken promises of the pool: they raise
    AssertionError and are kept in `violations`, in case that error is caught on its way to the test.
    `opened` and `closed` count generators. While the gate `weights` is shut, as the model is suspended, they wait.
    """

    def __init__(self, info: Model, violations: list[str]) -> None:
        self._info = info
        self._violations = violations
        self._in_flight: list[Work] = []
        self._queued = 0
        self.weights = Gate()
        self.is_unloaded = False
        self.is_aborted = False
        self.opened = 0
        self.closed = 0

    @property
    def info(self) -> Model:
        """The entity with the figures of this load."""
        return self._info

    @property
    def waiting(self) -> int:
        """How many generators are open and held before their first event."""
        return self._queued

    @property
    def in_flight(self) -> int:
        """How many generators are open."""
        return len(self._in_flight)

    def abort(self, error: IngleError | None = None) -> None:
        """Make every open generator raise `error`, or RequestCancelled as every one does that is opened from now on."""
        self.is_aborted = True
        for work in self._in_flight:
            if not work.aborted.done():
                work.aborted.set_result(error or RequestCancelled())

    def unload(self) -> None:
        """The end: called by the repository."""
        if self.is_unloaded:
            self._violate("was unloaded twice")
        if self._in_flight:
            self._violate(f"was unloaded under {len(self._in_flight)} open generators")
        self.is_unloaded = True

    @property
    def is_suspended(self) -> bool:
        """Whether its weights are away."""
        return self.weights.is_shut

    def check_usable(self) -> None:
        """Complain if the weights are gone."""
        if self.is_unloaded:
            self._violate("was used after it was unloaded")

    @asynccontextmanager
    async def working(self, timeout_seconds: float | None) -> AsyncGenerator[Work, None]:
        """Count a generator as open."""
        self.check_usable()
        if self.is_aborted:
            raise RequestCancelled()
        work = Work(timeout_seconds, self.weights)
        self._in_flight.append(work)
        self.opened += 1
        try:
            yield work
        finally:
            self._in_flight.remove(work)
            self.closed += 1
            work.aborted.cancel()

    async def admit(self, work: Work, gate: Gate) -> None:
        """Stand in the queue before `gate`."""
        self._queued += 1
        try:
            await work.pause(gate)
        finally:
            self._queued -= 1

    def _violate(self, what: str) -> None:
        message = f"model '{self._info.id}' {what}"
        self._violations.append(message)
        raise AssertionError(message)
