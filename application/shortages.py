"""Caches that could not grow, told by their threads to whoever can make room."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shortage:
    """`bytes` more were wanted of the memory of `device` than there is room for; `again` has the cache ask anew."""

    device: str
    bytes: int
    again: Callable[[], None]


OnShortage = Callable[[Shortage], bool]


class Shortages:
    """May be told from any thread, which is not held up; of those that ask again in one way the largest is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, Callable[[], None]], Shortage] = {}
        self._wake: Callable[[], None] | None = None

    def tell(self, shortage: Shortage) -> bool:
        """Say that memory is short; False if nobody listens, so that nothing will come of it."""
        with self._lock:
            if self._wake is None:
                return False
            key = (shortage.device, shortage.again)
            known = self._kept.get(key)
            if known is None or known.bytes < shortage.bytes:
                self._kept[key] = shortage
            self._wake()
            return True

    @contextmanager
    def heard(self, wake: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `wake` is called for each that is told, in the thread that tells it."""
        with self._lock:
            self._wake = wake
        try:
            yield
        finally:
            with self._lock:
                self._wake = None
            for shortage in self.take():
                shortage.again()

    def take(self) -> Sequence[Shortage]:
        """What was told since the last time."""
        with self._lock:
            kept, self._kept = self._kept, {}
        return list(kept.values())
