"""What the operator set for a queue (a model profile) and for an owner; what is not set has its default."""

from dataclasses import dataclass

from domain.errors import InvalidRequest
from domain.retry import RetryRules

BREAKER_FAILURES = 5
BREAKER_HOLD_MS = 30_000


@dataclass(frozen=True, slots=True)
class QueueRules:
    """How the jobs of a model profile are treated; None is the default (no limit, the keeper's lease, …)."""

    model_profile: str
    paused: bool = False
    max_running: int | None = None
    lease_ms: int | None = None
    timeout_ms: int | None = None
    retry: RetryRules | None = None

    def __post_init__(self) -> None:
        _check("max_running", self.max_running, 0, 1_000_000)
        _check("lease_seconds", self.lease_ms, 1_000, 3_600_000, 1_000)
        _check("timeout_seconds", self.timeout_ms, 1_000, 86_400_000, 1_000)


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as it is.

    `held_until` (milliseconds since the epoch) and `held_reason` are the breaker's, None where it does not hold it.
    """

    rules: QueueRules
    held_until: int | None
    held_reason: str | None
    pending: int
    running: int


@dataclass(frozen=True, slots=True)
class OwnerRules:
    """What an owner may have; None is no limit. Days are those of UTC."""

    owner_service: str
    weight: float = 1.0
    max_pending: int | None = None
    max_running: int | None = None
    priority_cap: int | None = None
    input_bytes_per_day: int | None = None
    tokens_per_day: int | None = None

    def __post_init__(self) -> None:
        _check("weight", self.weight, 0.1, 100)
        _check("priority_cap", self.priority_cap, -10, 10)
        for name in ("max_pending", "max_running", "input_bytes_per_day", "tokens_per_day"):
            _check(name, getattr(self, name), 0, 1 << 53)


def _check(name: str, value: float | None, least: float, most: float, unit: int = 1) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidRequest(f"must be between {least / unit:g} and {most / unit:g}", field=name)
