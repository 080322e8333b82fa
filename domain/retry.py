"""When a failed job runs again: error code and failures so far → a delay, or never."""

from collections.abc import Sequence
from dataclasses import dataclass

from domain.errors import InvalidRequest

SECOND = 1000
CAP_MS = 3600 * SECOND
SNOOZE_CAP_MS = 300 * SECOND
SHORT_MS = 30 * SECOND
LONG_MS = 120 * SECOND

SHORT = frozenset(
    {
        "provider_unavailable",
        "model_unavailable",
        "provider_error",
        "dependency_error",
        "timeout",
        "storage_error",
        "stale_worker",
    }
)
LONG = frozenset(["bad_response", "transcript_hallucination", "transcript_incomplete", "internal_error", "unknown"])
SNOOZES = {"model_loading": 5 * SECOND, "rate_limited": 10 * SECOND, "capacity": 10 * SECOND}
ONCE = frozenset({"out_of_memory"})
TERMINAL = frozenset(
    {
        "bad_audio",
        "bad_input",
        "context_length",
        "unsupported_task",
        "auth_error",
        "content_filtered",
        "quota_exceeded",
        "payload_too_large",
        "cancelled",
        "expired",
        "released",
    }
)
KNOWN_CODES = SHORT | LONG | SNOOZES.keys() | ONCE | TERMINAL
MAX_CODES = 64


@dataclass(frozen=True, slots=True)
class RetryRules:
    """What a job or a queue says otherwise than the table; None and empty leave it to the next. In seconds."""

    base_seconds: int | None = None
    cap_seconds: int | None = None
    retry_codes: tuple[str, ...] = ()
    terminal_codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("base_seconds", self.base_seconds, 3600)
        _check("cap_seconds", self.cap_seconds, 86_400)
        for name, codes in (("retry_codes", self.retry_codes), ("terminal_codes", self.terminal_codes)):
            if len(codes) > MAX_CODES:
                raise InvalidRequest(f"at most {MAX_CODES} codes", field=f"retry.{name}")
        if both := set(self.retry_codes) & set(self.terminal_codes):
            raise InvalidRequest(f"{min(both)} cannot be both retried and final", field="retry.terminal_codes")


def _check(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise InvalidRequest(f"must be between 1 and {most}", field=f"retry.{name}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done about a code: end it (`terminal`), put it off uncounted (`snooze`), or run it again."""

    base_ms: int = 0
    cap_ms: int = CAP_MS
    snooze: bool = False
    terminal: bool = False

    def delay_ms(self, n: int, jitter: float, at_least_ms: int = 0) -> int:
        """The wait before the run after the `n`-th failure, n ≥ 1: doubling, capped, times `jitter` in [0.5, 1].

        Never below `at_least_ms`, which is what the worker asked for.
        """
        # 2^32 times anything is beyond every cap.
        grown = self.base_ms * 2 ** min(n - 1, 32)
        return max(int(min(self.cap_ms, grown) * jitter), at_least_ms)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rules of a job, over those of its queue, over the table of this module."""

    rules: tuple[RetryRules, ...] = ()

    @classmethod
    def of(cls, *rules: RetryRules | None) -> "RetryPolicy":
        """Those that there are, strongest first."""
        return cls(tuple(rule for rule in rules if rule is not None))

    def verdict(self, code: str, *, retryable: bool | None = None, earlier_codes: Sequence[str] = ()) -> Verdict:
        """What is done about `code`. `retryable` is the worker's opinion; `earlier_codes` those of ended attempts."""
        if retryable is False or code == "cancelled":
            return Verdict(terminal=True)
        said = self._said(code)
        if said is None and code in SNOOZES:
            return Verdict(SNOOZES[code], SNOOZE_CAP_MS, snooze=True)
        final = not said if said is not None else code in TERMINAL or (code in ONCE and code in earlier_codes)
        if final and not retryable:
            return Verdict(terminal=True)
        return Verdict(self._base_ms(code), self._cap_ms())

    def _said(self, code: str) -> bool | None:
        """Whether a rule wants `code` retried; None where none names it."""
        for rule in self.rules:
            if code in rule.terminal_codes:
                return False
            if code in rule.retry_codes:
                return True
        return None

    def _base_ms(self, code: str) -> int:
        said = next((rule.base_seconds for rule in self.rules if rule.base_seconds is not None), None)
        if said is not None:
            return said * SECOND
        return SHORT_MS if code in SHORT or code in ONCE else LONG_MS

    def _cap_ms(self) -> int:
        said = next((rule.cap_seconds for rule in self.rules if rule.cap_seconds is not None), None)
        return CAP_MS if said is None else said * SECOND
