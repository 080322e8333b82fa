"""Work on rows that know nothing of each other, side by side on a CPU.

CTranslate2 shares one product among the threads of a replica, and with a small model the threads mostly wait for each
other: two rows on a thread each are done in two thirds of the time that two threads take for both.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

_SMALL_BYTES = 512 << 20
"""A lane has a copy of the weights; a model whose file is larger also gives a product enough to do for all threads."""


def lanes_for(threads: int, weight_bytes: int) -> int:
    """How many lanes `threads` of a CPU are worth, for weights of that size; each lane has its part of the threads."""
    if weight_bytes > _SMALL_BYTES:
        return 1
    return min(threads, 2 if threads < 8 else 4)


class Lanes:
    """`count` threads that start with the niceness of their first caller; with one lane the caller does everything."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="speech-lane") if count > 1 else None

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """What `work` gives for each of `items`, in their order.

        Everything has ended when it returns or raises; it raises what the first item that failed did.
        """
        if self._threads is None:
            return [work(item) for item in items]
        running = [self._threads.submit(work, item) for item in items]
        wait(running)
        return [one.result() for one in running]

    def shares(self, count: int) -> Sequence[range]:
        """The numbers below `count`, dealt to the lanes; no share is empty."""
        return [range(lane, count, self.count) for lane in range(min(self.count, count))]

    def share_out(self, work: Callable[[Sequence[int]], Sequence[B]], count: int) -> list[B]:
        """What `work` gives for the numbers below `count`, each lane's share at a time, in their order.

        Raises as `map`.
        """
        shares = self.shares(count)
        done = zip(shares, self.map(work, shares), strict=True)
        found = {number: result for share, results in done for number, result in zip(share, results, strict=True)}
        return [found[number] for number in range(count)]

    def close(self) -> None:
        """Let the threads go."""
        if self._threads is not None:
            self._threads.shutdown()
