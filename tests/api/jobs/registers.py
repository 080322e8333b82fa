"""Calls of many workers, read per job as a register: could a single machine have given these answers, in some order?"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

_TICKS = itertools.count()


@dataclass
class Call:
    """One call about a job: a claim that got `attempt`, or a report of it. `end` stays open if nobody heard the answer.

    `effect` is what the answer said: claimed, completed, replayed, lost; unknown may have been done or not.
    """

    attempt: int
    effect: str
    begin: int = field(default_factory=lambda: next(_TICKS))
    end: float = float("inf")

    def heard(self, effect: str, attempt: int | None = None) -> "Call":
        """The answer came, and said so."""
        self.end, self.effect = next(_TICKS), effect
        self.attempt = self.attempt if attempt is None else attempt
        return self


@dataclass(frozen=True)
class State:
    """A job as one machine would have it. A lease may run out at any time; until the next claim it is nobody's then."""

    attempt: int = 0
    held: bool = False
    done_by: int | None = None

    def after(self, call: Call) -> "list[State]":
        """Every state that the call may lead to, none where its answer is impossible."""
        holds = self.held and call.attempt == self.attempt
        done = State(self.attempt, done_by=call.attempt)
        match call.effect:
            case "claimed":
                return (
                    [State(call.attempt, held=True)]
                    if self.done_by is None and call.attempt == self.attempt + 1
                    else []
                )
            case "completed":
                return [done] if holds else []
            case "replayed":
                return [self] if self.done_by == call.attempt else []
            case "lost":
                if call.attempt == self.attempt and self.done_by is None:
                    return [State(self.attempt)]
                return [] if self.done_by == call.attempt else [self]
            case "unknown":
                return [done, self] if holds else [self]
        raise ValueError(call.effect)


def is_linearizable(calls: Sequence[Call], state: State = State()) -> bool:
    """Whether some order of `calls`, in which none is before one that had ended when it began, gives these answers."""
    if not calls:
        return True
    soonest = min(call.end for call in calls)
    return any(
        is_linearizable([other for other in calls if other is not call], after)
        for call in calls
        if call.begin < soonest
        for after in state.after(call)
    )
