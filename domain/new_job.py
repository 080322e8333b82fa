"""Jobs as they are asked for, and what may be asked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from domain.errors import InvalidRequest
from domain.retry import RetryRules

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}")
KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")
CODE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
DAY_MS = 86_400_000
MAX_DELAY_MS = 30 * DAY_MS


class OnConflict(StrEnum):
    """What is done with a new job whose dedupe_key an active job has."""

    ERROR = "error"
    RETURN = "return"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it is asked for; it checks its own names and ranges (InvalidRequest names the field).

    `available_at` (milliseconds since the epoch) or `delay_ms`, not both. `expires_ms` counts from when it is due.
    `timeout_ms` None takes the queue's, and where that has none `default_timeout_ms`. `cost` is the caller's, or
    `estimated`: whoever knows more of the job may say better.
    """

    id: str
    owner_service: str
    task_type: str
    model_profile: str
    input: Mapping[str, Any]
    owner_ref: str = ""
    priority: int = 0
    available_at: int | None = None
    delay_ms: int = 0
    expires_ms: int | None = None
    max_attempts: int = 3
    timeout_ms: int | None = None
    default_timeout_ms: int = 600_000
    retry: RetryRules | None = None
    idempotency_key: str | None = None
    request_sha256: str | None = None
    dedupe_key: str | None = None
    on_conflict: OnConflict = OnConflict.ERROR
    callback_url: str | None = None
    callback_headers: Mapping[str, str] | None = None
    include_result: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    cost: float = 1.0
    estimated: bool = False
    trace_id: str | None = None
    request_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("owner_service", "task_type", "model_profile"):
            if not NAME.fullmatch(getattr(self, name)):
                raise InvalidRequest("must be a name: letters, digits and _.:/@-, at most 128", field=name)
        if len(self.owner_ref) > 256 or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in self.owner_ref):
            raise InvalidRequest("at most 256 characters, none of them a control character", field="owner_ref")
        for name in ("idempotency_key", "dedupe_key"):
            value = getattr(self, name)
            if value is not None and not KEY.fullmatch(value):
                raise InvalidRequest("1 to 128 printable ASCII characters", field=name)
        if (self.idempotency_key is None) != (self.request_sha256 is None):
            raise InvalidRequest("a key needs the hash of its request", field="idempotency_key")
        if self.available_at is not None and self.delay_ms:
            raise InvalidRequest("give available_at or delay_seconds, not both", field="available_at")
        _check("priority", self.priority, -10, 10)
        _check("delay_seconds", self.delay_ms, 0, MAX_DELAY_MS, 1000)
        _check("expires_in_seconds", self.expires_ms, 1000, MAX_DELAY_MS, 1000)
        _check("max_attempts", self.max_attempts, 1, 100)
        _check("timeout_seconds", self.timeout_ms, 1000, DAY_MS, 1000)
        _check("cost", self.cost, 0.01, 1000)
        if self.callback_url is not None and not 1 <= len(self.callback_url) <= 2048:
            raise InvalidRequest("at most 2048 characters", field="callback_url")
        if len(self.metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in self.metadata.items()):
            raise InvalidRequest("at most 16 pairs, keys to 64 and texts to 512 characters", field="metadata")

    def due_at(self, now: int) -> int:
        """When it may first run, `now` being the database's. Raises InvalidRequest beyond 30 days."""
        if self.available_at is None:
            return now + self.delay_ms
        if self.available_at - now > MAX_DELAY_MS:
            raise InvalidRequest("at most 30 days ahead", field="available_at")
        return max(now, self.available_at)


def _check(name: str, value: float | None, least: float, most: float, unit: int = 1) -> None:
    # Not `not value < least`: NaN compares false with everything and is refused too.
    if value is not None and not least <= value <= most:
        raise InvalidRequest(f"must be between {least / unit:g} and {most / unit:g}", field=name)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """The batch that new jobs belong to; all of them have this owner."""

    id: str
    owner_service: str
    idempotency_key: str | None = None
    request_sha256: str | None = None
