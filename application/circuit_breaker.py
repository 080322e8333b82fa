"""When to stop asking a server that does not answer, and when to try again. Pure: whoever asks brings the time."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum


class Circuit(StrEnum):
    """CLOSED lets every call through, OPEN none, HALF_OPEN one that finds out whether the server is back."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`failures` in a row within `window` seconds open the circuit; `cooldown` seconds later one call may try."""

    failures: int = 5
    window: float = 30.0
    cooldown: float = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Admission:
    """One call that was let through; its end is told with it. `is_trial` of the one call in a HALF_OPEN circuit."""

    is_trial: bool = False


class CircuitBreaker:
    """Counts how calls to one server end. Times are seconds of a clock that never goes back.

    * Each Admission is given back exactly once: to `succeeded`, `failed` or `released`.
    * While the circuit is HALF_OPEN, at most one trial is under way.
    * In a circuit that is not CLOSED, a failure counts only if it is the trial's: the other calls began before. A
      success always closes it, whoever's it is, for the server answers again.
    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._failures: deque[float] = deque(maxlen=self._policy.failures)
        self._opened_at: float | None = None
        self._trial: Admission | None = None

    def state(self, now: float) -> Circuit:
        """What a call would meet at `now`."""
        if self._opened_at is None:
            return Circuit.CLOSED
        return Circuit.OPEN if self.retry_after(now) > 0 else Circuit.HALF_OPEN

    def retry_after(self, now: float) -> float:
        """Seconds until a call may try; 0 where one may try now."""
        return 0.0 if self._opened_at is None else max(0.0, self._policy.cooldown - (now - self._opened_at))

    def admit(self, now: float) -> Admission | None:
        """Let a call through at `now`, or not."""
        state = self.state(now)
        if state is Circuit.CLOSED:
            return Admission()
        if state is Circuit.OPEN or self._trial is not None:
            return None
        self._trial = Admission(is_trial=True)
        return self._trial

    def succeeded(self, admission: Admission) -> None:
        """The server answered."""
        self.released(admission)
        self._failures.clear()
        self._opened_at = None

    def failed(self, admission: Admission, now: float) -> None:
        """The server did not answer, or failed."""
        if self._opened_at is None:
            self._failures.append(now)
            if len(self._failures) == self._policy.failures and now - self._failures[0] <= self._policy.window:
                self._opened_at = now
        elif admission is self._trial:
            self._opened_at = now
        self.released(admission)

    def released(self, admission: Admission) -> None:
        """The call ended without telling anything of the server: its caller left."""
        if admission is self._trial:
            self._trial = None


@dataclass(slots=True)
class RetryBudget:
    """Keeps retries to a share of the calls, so that a struggling server is not hit harder for struggling.

    Each call earns `share` of a retry; at most `reserve` are saved up, which is also what there is at the start.
    """

    share: float = 0.1
    reserve: float = 10.0
    _saved: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved = self.reserve

    def called(self) -> None:
        """A call is made, which is no retry."""
        self._saved = min(self.reserve, self._saved + self.share)

    def take(self) -> bool:
        """Whether one more retry may be made now; if so, it is spent."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
