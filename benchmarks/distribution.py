"""Many durations as the few figures that matter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """How long things took, in milliseconds; `count` of them."""

    count: int
    p50: float
    p99: float
    longest: float


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank).

    Raises ValueError where there are no values.
    """
    if not sorted_values:
        raise ValueError("no values, no percentile")
    rank = math.ceil(percent / 100 * len(sorted_values))
    return sorted_values[max(1, rank) - 1]


def distribution(seconds: Sequence[float]) -> Distribution:
    """The figures of `seconds`. Raises ValueError where there are none."""
    values = sorted(1000 * value for value in seconds)
    return Distribution(len(values), percentile(values, 50), percentile(values, 99), percentile(values, 100))
