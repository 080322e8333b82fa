"""The owner thread of a device: whatever touches its weights or caches runs here and nowhere else."""

import asyncio
import collections
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

_LONGEST_STEP_SECONDS = 60.0


class Stepper(Protocol):
    """An engine with work to do, one step at a time."""

    def step(self) -> bool:
        """Do one bounded piece of work; False when there is none until the thread is woken again.

        Errors belong to the requests of the step: an engine handles them itself and raises none.
        """
        ...


class InferenceThread:
    """One thread that runs submitted callables in order and, between them, the steps of attached engines.

    Engines take turns, one step each; the thread sleeps when none has work, and spins never.
    """

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._steppers: list[Stepper] = []
        self._woken = False
        self._closed = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        """Run `call` on the thread; await the result from the calling event loop.

        Cancelling the returned future does not stop a call that has begun.
        """
        return asyncio.wrap_future(self.call_soon(call))

    def call_soon(self, call: Callable[[], T]) -> "Future[T]":
        """Run `call` on the thread; the result for callers without an event loop."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        with self._condition:
            if self._closed:
                raise RuntimeError("the inference thread is closed")
            self._calls.append(run)
            self._condition.notify()
        return future

    def attach(self, stepper: Stepper) -> None:
        """Give `stepper` its turns from now on."""
        with self._condition:
            self._steppers.append(stepper)
            self._woken = True
            self._condition.notify()

    async def detach(self, stepper: Stepper) -> None:
        """Take `stepper` off the thread; after this it will not be stepped again."""
        await self.submit(lambda: self._steppers.remove(stepper))

    def is_well(self) -> bool:
        """Whether the thread lives and has not been in one call or step for longer than any may take."""
        return self._thread.is_alive() and time.monotonic() - self._beat < _LONGEST_STEP_SECONDS

    def wake(self) -> None:
        """There is new work for an engine."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        busy = False
        while True:
            with self._condition:
                while not (busy or self._calls or self._woken or self._closed):
                    self._beat = math.inf
                    self._condition.wait()
                self._woken = False
                call = self._calls.popleft() if self._calls else None
                if call is None and self._closed:
                    return
                steppers = list(self._steppers)
            self._beat = time.monotonic()
            if call is not None:
                call()
                busy = True
                continue
            busy = False
            for stepper in steppers:
                try:
                    busy = stepper.step() or busy
                except Exception:
                    log.exception("an engine let an error escape from its step")
