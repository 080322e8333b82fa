"""Measuring in turns: who goes when, and what comes of it.

The bandwidth of a machine's memory may double or halve within seconds when it has neighbours. So two targets are
compared only by what they did in the same turn, seconds apart, and the ratio of many turns is the median of theirs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol, TypeVar

from benchmarks.figures import Figures
from benchmarks.plan import Plan, Question

OURS = "ingle"
BARE = "bare loop of kernels"

Turn = Mapping[str, Figures]
"""What each target did in one turn, by its name; only the figures that were asked for."""
Value = Callable[[Figures], float | None]
"""One figure of them, None where it was not measured."""


class Target(Protocol):
    """Who is measured."""

    name: str
    quick: bool
    """Whether it takes part in every turn; see Question."""

    def takes(self, question: Question) -> bool:
        """Whether this can be measured of it."""
        ...

    def measure(self, question: Question) -> Figures:
        """Only what was asked for, after `takes`. Raises RequestFailed, WorkerFailed."""
        ...


AnyTarget = TypeVar("AnyTarget", bound=Target)
T = TypeVar("T")


def schedule(plan: Plan, targets: Sequence[AnyTarget]) -> Iterator[tuple[int, Question, list[AnyTarget]]]:
    """Each turn: its round from 1 on, what is asked, and whom in which order. Who meets again goes in another order."""
    met = Counter[tuple[Question, tuple[str, ...]]]()
    for number in range(1, plan.rounds + 1):
        for place, question in enumerate(plan.round()):
            asked = [target for target in targets if target.takes(question)]
            for turn in range(question.turns):
                those = taking_part(question, turn, asked)
                if those:
                    company = (question, tuple(target.name for target in those))
                    yield number, question, rotated(those, place + met[company])
                    met[company] += 1


def taking_part(question: Question, turn: int, targets: Sequence[AnyTarget]) -> list[AnyTarget]:
    """Who is asked in turn `turn` of a round, counted from 0: the slow ones are dealt out where it is not short."""
    slow = [target for target in targets if not (target.quick or question.short)]
    left_out = [target for place, target in enumerate(slow) if place % question.turns != turn]
    return [target for target in targets if target not in left_out]


def rotated(items: Sequence[T], by: int) -> list[T]:
    """`items`, of which there are some, with another one first for each `by`."""
    first = by % len(items)
    return [*items[first:], *items[:first]]


def with_floor(turn: Turn) -> Turn:
    """The turn with the floor that was measured beside the bare loop given to everybody."""
    floor = turn[BARE].floor_seconds if BARE in turn else None
    return {name: replace(figures, floor_seconds=floor) for name, figures in turn.items()}


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure or a ratio over the turns in which it was measured."""

    median: float
    lowest: float
    highest: float
    turns: int


def spread_of(values: Sequence[float]) -> Spread | None:
    """None where nothing was measured."""
    return Spread(median(values), min(values), max(values), len(values)) if values else None


def values(turns: Sequence[Turn], name: str, value: Value) -> list[float]:
    """A figure of one target, turn by turn."""
    found = (value(turn[name]) for turn in turns if name in turn)
    return [one for one in found if one is not None]


def ratios(turns: Sequence[Turn], value: Value, dividend: str, divisor: str) -> list[float]:
    """A figure of one target over the same figure of another, for each turn in which both have it."""
    both = (turn for turn in turns if dividend in turn and divisor in turn)
    found = (quotient(value(turn[dividend]), value(turn[divisor])) for turn in both)
    return [one for one in found if one is not None]


def quotient(dividend: float | None, divisor: float | None) -> float | None:
    """None where a figure is missing."""
    return None if dividend is None or not divisor else dividend / divisor
