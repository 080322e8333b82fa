"""A generator's way to a client that may leave or stop reading at any moment."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from starlette.types import Message, Receive, Send

from api.errors import ClientLeft

T = TypeVar("T")
MAX_READY = 16


async def until_client_leaves(receive: Receive) -> None:
    """Returns when the connection is gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class NothingYet(Exception):
    """There is no next item within the time that the caller wanted to wait."""


class ReaderStalled(Exception):
    """The client is there and does not read what is sent."""


class _Alarm:
    """A timer that is set for every item and almost never goes off.

    Setting it is a mere assignment: the loop's own timer stays where it is, and when it fires too early it is
    started anew for the rest. A loop's timer for each item would cost more than the item.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._fires = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Act in so many seconds, unless it is set again or unset before."""
        self._due = self._loop.time() + seconds
        if self._timer is None or self._fires > self._due:
            self._start(self._due, seconds)

    def unset(self) -> None:
        """Do not act."""
        self._due = None

    def close(self) -> None:
        """Never act again."""
        self._due = None
        if self._timer is not None:
            self._timer.cancel()

    def _start(self, fires: float, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires = fires
        self._timer = self._loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - self._loop.time()
        if left > 0:
            self._start(self._due, left)
            return
        self._due = None
        self._act()


class Relay(Generic[T]):
    """Runs a generator in one task of its own and hands its items over, several at once where they are ready.

    The task keeps at most `MAX_READY` items ready, so a reader that stops reading stops the generator too. The
    generator is closed, in that same task, when the client leaves or the relay is closed. One reader at a time,
    and no task is made for an item, which would cost more than all the rest.
    """

    def __init__(self, items: AsyncGenerator[T, None], receive: Receive) -> None:
        self._ready: deque[T] = deque()
        self._has_room = asyncio.Event()
        self._has_ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._is_sending = False
        self._silence = _Alarm(self._wake)
        self._stall = _Alarm(self._on_stall)
        self._has_stalled = False
        self._work = asyncio.create_task(self._run(items))
        self._gone = asyncio.create_task(until_client_leaves(receive))
        self._gone.add_done_callback(self._on_gone)

    async def _run(self, items: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    self._ready.append(item)
                    self._wake()
                    if len(self._ready) >= MAX_READY:
                        self._has_room.clear()
                        await self._has_room.wait()
        except Exception as error:
            self._error = error
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_gone(self, _: "asyncio.Task[None]") -> None:
        self._wake()
        if self._has_left() and self._is_sending:
            self._end_delivery()

    def _on_stall(self) -> None:
        self._has_stalled = True
        self._end_delivery()

    def _has_left(self) -> bool:
        """Whether nobody is there to be told anything; the client of a cancelled request still is."""
        return self._gone.done() and not self._gone.cancelled() and self._gone.exception() is None

    def _why_gone(self) -> BaseException:
        return self._gone.exception() or ClientLeft()

    def _end_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery.cancel()

    async def take(self, patience: float | None = None) -> list[T]:
        """Every item that is ready, at least one, in order.

        Raises StopAsyncIteration at the end, ClientLeft, RequestCancelled, and whatever the generator raises.
        NothingYet means that there is none within `patience` seconds; the next call goes on waiting.
        """
        if not (self._ready or self._has_ended or self._gone.done()):
            await self._wait(patience)
        if self._gone.done():
            raise self._why_gone()
        if self._ready:
            items = list(self._ready)
            self._ready.clear()
            self._has_room.set()
            return items
        if not self._has_ended:
            raise NothingYet
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def _wait(self, patience: float | None) -> None:
        """Until there is an item, the end, no client any more, or no time."""
        self._waiter = asyncio.get_running_loop().create_future()
        if patience is not None:
            self._silence.set(patience)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._silence.unset()

    async def run(self, delivery: Coroutine[Any, Any, None]) -> None:
        """Run `delivery`, which takes and sends: at most until the client leaves during a send, or reads none of it.

        Raises ClientLeft, ReaderStalled, and whatever `delivery` raises. It has a task of its own: one that waits
        inside all layers of the application is woken through each of them, for every item.
        """
        self._delivery = asyncio.create_task(delivery)
        await asyncio.wait({self._delivery})
        if self._delivery.cancelled():
            raise ReaderStalled() if self._has_stalled else ClientLeft()
        self._delivery.result()

    async def send(self, send: Send, message: Message, patience: float) -> None:
        """Send `message` within a delivery, which is over if that takes longer than `patience`."""
        if self._has_left():
            raise ClientLeft()
        self._is_sending = True
        self._stall.set(patience)
        await send(message)
        self._stall.unset()
        self._is_sending = False

    async def close(self) -> None:
        """End the work; returns when the generator is closed."""
        self._silence.close()
        self._stall.close()
        self._work.cancel()
        self._gone.cancel()
        self._end_delivery()
        tasks = (self._work, self._gone, self._delivery)
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
