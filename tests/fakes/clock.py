"""Clocks that a test drives."""

import asyncio

EPOCH = 1_800_000_000.0


class FakeClock:
    """Stands still until the test says `advance`."""

    def __init__(self, now: float = EPOCH) -> None:
        self._now = now
        self._elapsed = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed += seconds

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now + self._elapsed


class LoopClock:
    """Goes with the running event loop, so that under virtual time clock and timers agree."""

    def monotonic(self) -> float:
        """The loop's own time."""
        return asyncio.get_running_loop().time()

    def now(self) -> float:
        """The loop's time as if it had started at EPOCH."""
        return EPOCH + self.monotonic()
