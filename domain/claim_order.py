"""In which order a claim visits the pairs of model profile and task type that have ready work."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

MAX_JOBS_IN_A_ROW = 16
MAX_SECONDS_IN_A_ROW = 30.0

Pair = tuple[str, str]


@dataclass(slots=True)
class Streak:
    """How long a worker has been served from its loaded profiles alone, while others had work."""

    jobs: int = 0
    since: float | None = None

    def over(self, now: float) -> bool:
        """Whether it is the others' turn; `now` in seconds of any steady clock."""
        return self.jobs >= MAX_JOBS_IN_A_ROW or (self.since is not None and now - self.since >= MAX_SECONDS_IN_A_ROW)

    def note(self, profiles: Collection[str], loaded: Collection[str], others: Collection[str], now: float) -> None:
        """What a claim gave: jobs of `profiles` (one entry for each), while `others` had work too."""
        if not others or any(profile not in loaded for profile in profiles):
            self.jobs, self.since = 0, None
        elif profiles:
            self.jobs += len(profiles)
            self.since = now if self.since is None else self.since


def visiting_order(
    pairs: Sequence[Pair], start: int, loaded: Collection[str], streak: Streak, now: float
) -> list[Pair]:
    """`pairs` in a circle from the `start`-th on; those of loaded profiles first, or last once their streak is over."""
    at = start % len(pairs) if pairs else 0
    turned = [*pairs[at:], *pairs[:at]]
    favoured = not streak.over(now)
    return sorted(turned, key=lambda pair: (pair[0] in loaded) != favoured)
