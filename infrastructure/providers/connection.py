"""Calls to one provider: tried again before the first byte only, and not made at all while it is down."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from application.circuit_breaker import Circuit, CircuitBreaker, RetryBudget
from application.ports import Clock
from domain.errors import ProviderUnavailable
from infrastructure.providers.entry import WHISPERX, ProviderEntry
from infrastructure.providers.exchange import Call, EventStream, Exchange, Json, Unanswered
from infrastructure.providers.work import Work

T = TypeVar("T")


class Connection:
    """All models of a provider share its breaker and its connections.

    * An answer that has begun is never asked for again.
    * Raises ProviderUnavailable, RateLimited, DeadlineExceeded, ProviderRefusesKey, InvalidRequest before the first
      byte; ProviderError and BadResponse at any time; DeadlinePassed and RequestCancelled as the work does.
    """

    def __init__(self, entry: ProviderEntry, clock: Clock, *, jitter: Callable[[], float] = random.random) -> None:
        self.entry = entry
        self._clock = clock
        self._jitter = jitter
        self._breaker = CircuitBreaker(entry.breaker)
        self._budget = RetryBudget()
        self._exchange = Exchange(entry)

    @property
    def circuit(self) -> Circuit:
        """Whether calls are made at all."""
        return self._breaker.state(self._clock.monotonic())

    async def events(self, call: Call) -> AsyncGenerator[Json, None]:
        """The objects of a streamed answer. Closing the generator closes the connection."""
        stream: EventStream = await self._tried(call, self._exchange.stream)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.close()

    async def answer(self, call: Call) -> Json:
        """A whole answer."""
        return await self._tried(call, self._exchange.whole)

    async def look(self, seconds: float) -> None:
        """Return if the provider is there. One try, of which the breaker neither knows nor hears."""
        try:
            if self.entry.kind == WHISPERX:
                await self._exchange.look(Call(self.entry.speech_shape.path, None, Work(seconds)))
            else:
                await self._exchange.whole(Call("/models", None, Work(seconds)))
        except Unanswered as error:
            raise error.failure from None

    async def prepare(self) -> None:
        """Get ready for the first call."""
        await self._exchange.prepare()

    async def close(self) -> None:
        """Close what is open; calls must have ended."""
        await self._exchange.close()

    async def _tried(self, call: Call, attempt: Callable[[Call], Awaitable[T]]) -> T:
        """The result of the first try that brings one."""
        self._budget.called()
        number = 0
        while True:
            number += 1
            try:
                result = await self._admitted(call, attempt)
            except Unanswered as error:
                pause = self._pause(number, error)
                if pause is None or pause >= call.work.seconds_left or not self._budget.take():
                    raise error.failure from None
            else:
                call.work.has_begun = True
                return result
            # The limit is never reached: the sleep ends before it, or the work ends them both.
            await call.work.wait(lambda seconds=pause: asyncio.sleep(seconds), pause + 1.0)  # type: ignore[misc]

    async def _admitted(self, call: Call, attempt: Callable[[Call], Awaitable[T]]) -> T:
        """One try, if the breaker lets it through; it hears how the try ends."""
        admission = self._breaker.admit(self._clock.monotonic())
        if admission is None:
            raise self._is_down()
        try:
            result = await attempt(call)
        except Unanswered as error:
            if error.is_fault:
                self._breaker.failed(admission, self._clock.monotonic())
            else:
                self._breaker.succeeded(admission)
            raise
        except BaseException:
            self._breaker.released(admission)
            raise
        self._breaker.succeeded(admission)
        return result

    def _pause(self, number: int, error: Unanswered) -> float | None:
        """Seconds between try `number` and the next one, None if there is none."""
        patience = self.entry.patience
        if not error.again or number >= patience.tries:
            return None
        if error.pause is not None:
            return error.pause if error.pause <= patience.longest_pause else None
        return patience.backoff * 2.0 ** (number - 1) * self._jitter()

    def _is_down(self) -> ProviderUnavailable:
        seconds = self._breaker.retry_after(self._clock.monotonic())
        return ProviderUnavailable(
            f"the provider '{self.entry.name}' does not answer: try again later", retry_after_seconds=max(1.0, seconds)
        )
