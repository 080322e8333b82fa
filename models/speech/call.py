"""One call on its way through the engine: it ends early by its deadline, by an abort, or with its caller."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from domain.errors import DeadlineExceeded, IngleError, RequestCancelled
from models.speech.listener import Told, Work

T = TypeVar("T")


class Call:
    """Lives on one event loop."""

    def __init__(self, timeout: float | None) -> None:
        self.work: Work | None = None
        self.seconds_left = 0.0
        """Audio that is still to be done."""
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._aborted: asyncio.Future[IngleError] = asyncio.get_running_loop().create_future()
        self._progressed = asyncio.Event()

    def abort(self, error: IngleError | None = None) -> None:
        """Let whoever waits raise `error`, or RequestCancelled."""
        if not self._aborted.done():
            self._aborted.set_result(error or RequestCancelled("the model was unloaded while this request ran"))

    async def progress(self) -> None:
        """Until the owner thread has told something."""
        self._progressed.clear()
        await self._progressed.wait()

    async def next(self, told: "asyncio.Queue[Told]", feeding: "asyncio.Future[None] | None" = None) -> Told:
        """What the owner thread says next, or nothing when `feeding` has ended. Raises the errors of both."""
        coming = asyncio.ensure_future(told.get())
        try:
            either: set[asyncio.Future[Any]] = {coming}
            if feeding is not None and not feeding.done():
                either.add(feeding)
            await self.wait_for(asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED))
            self._progressed.set()
            if feeding is not None and feeding.done():
                feeding.result()
            what = coming.result() if coming.done() else Told()
        finally:
            coming.cancel()
        if what.error is not None:
            raise what.error
        return what

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """The result of `awaitable`, which is cancelled when the call ends early.

        Raises DeadlineExceeded, RequestCancelled and what `awaitable` raises.
        """
        future: asyncio.Future[T] = asyncio.ensure_future(awaitable)
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            await asyncio.wait((future, self._aborted), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self._aborted.done():
                raise self._aborted.result()
            if not future.done():
                raise DeadlineExceeded("the deadline passed before the whole recording was written down")
        except BaseException:
            future.cancel()
            # Its own failure, if it comes first, has nobody to go to.
            await asyncio.gather(future, return_exceptions=True)
            raise
        return future.result()
