"""An event loop whose clock jumps: an hour of keep_alive passes in no time, and always in the same order.

@virtual_time
async def test_an_idle_model_leaves() -> None:
    await asyncio.sleep(300)        # returns at once; loop.time() is 300 s later
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Deadlock(Exception):
    """Nothing is ready and no timer is set: the coroutines wait for each other for ever."""


class _JumpingSelector(selectors.SelectSelector):
    """Polls instead of waiting; the time that select should have waited is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock("every coroutine waits and no timer is set")
        self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For code that waits for timers and for itself only: threads and sockets would look like a deadlock.

    `unhandled` collects what reached the loop's exception handler.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # The loop fires a timer when `time() + resolution` is past it; after years of virtual time the real
        # clock's nanosecond is less than one step of a float, and no timer would ever fire.
        self._clock_resolution = 1e-6
        self.unhandled: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.unhandled.append(context))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` under virtual time; fails if a callback or a forgotten task raised."""
    loops: list[VirtualTimeLoop] = []

    def new_loop() -> VirtualTimeLoop:
        loops.append(VirtualTimeLoop())
        return loops[-1]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        result = runner.run(main)
    assert not loops[0].unhandled, f"the event loop caught: {loops[0].unhandled}"
    return result


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make an ordinary test of an async one."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs))

    return in_virtual_time


async def settle() -> None:
    """Return a millisecond later, when everything that can run without time passing has run."""
    await asyncio.sleep(1e-3)
