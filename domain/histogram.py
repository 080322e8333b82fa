"""Times counted in buckets that grow by a quarter, so that many can be kept as a few numbers and added up."""

import math
from collections.abc import Iterable, Mapping

GROWTH = 1.25

Histogram = dict[int, int]


def bucket_of(ms: int) -> int:
    """The bucket that `ms` counts in; 0 holds what took no millisecond."""
    return 0 if ms <= 0 else 1 + math.floor(math.log(ms) / math.log(GROWTH) + 1e-9)


def value_of(bucket: int) -> int:
    """The upper end of a bucket in milliseconds, rounded: what a quantile that falls into it is said to be."""
    return 0 if bucket <= 0 else round(GROWTH**bucket)


def add(into: Histogram, counts: Mapping[int, int]) -> None:
    """Count `counts` in too."""
    for bucket, count in counts.items():
        into[bucket] = into.get(bucket, 0) + count


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """The time that `share` of what was counted did not exceed, to within a bucket; None where nothing was."""
    total = sum(counts.values())
    if not total:
        return None
    rank = max(1, math.ceil(share * total))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return value_of(bucket)
    return None


def histogram(times: Iterable[int]) -> Histogram:
    """How often each bucket was hit."""
    counts: Histogram = {}
    for ms in times:
        bucket = bucket_of(ms)
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts
