"""The machine's clock, behind `application.ports.Clock`."""

import time


class SystemClock:
    """Real time."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()
