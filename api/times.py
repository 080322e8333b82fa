"""Moments as text (RFC 3339, UTC) and durations as numbers, as the dialects write them."""

from datetime import UTC, datetime

NANOSECONDS = 1_000_000_000


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch with milliseconds: `2026-11-21T10:00:00.123Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_nanoseconds(seconds: float) -> str:
    """The same with nine digits, as Go's clients expect it."""
    whole, nanoseconds = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def milliseconds(seconds: float) -> int:
    """Whole milliseconds."""
    return round(1000 * seconds)


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds."""
    return round(seconds * NANOSECONDS)
