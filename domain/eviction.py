"""Who leaves memory when somebody else needs it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from domain.memory import MemoryBudget


@dataclass(frozen=True, slots=True)
class Holding:
    """What a model holds of one device's memory, as whoever needs room sees it.

    `keep_alive` (seconds, may be infinite) is how long it may stay idle; `last_used_at` is on any one time scale.
    """

    model_id: str
    bytes: int
    keep_alive: float
    last_used_at: float
    in_use: bool = False
    pinned: bool = False


def may_park(size: int, host: MemoryBudget) -> bool:
    """Whether a model of `size` bytes that makes way on a GPU may wait in the machine's own memory meanwhile."""
    return 0 < size <= host.room


def victims_for(needed: int, holdings: Iterable[Holding]) -> Sequence[str] | None:
    """The models that leave so that `needed` bytes come free, in the order of leaving; None if that cannot be had.

    Only models that are idle and not pinned leave: first those with the shortest keep-alive, among equals the least
    recently used. Nobody leaves whose place is not needed.
    """
    idle = [holding for holding in holdings if not holding.in_use and not holding.pinned]
    idle.sort(key=lambda holding: (holding.keep_alive, holding.last_used_at))
    chosen: list[Holding] = []
    freed = 0
    for holding in idle:
        if freed >= needed:
            break
        chosen.append(holding)
        freed += holding.bytes
    if freed < needed:
        return None
    for holding in list(chosen):
        # A large one that came last may have made earlier ones needless.
        if freed - holding.bytes >= needed:
            chosen.remove(holding)
            freed -= holding.bytes
    return [holding.model_id for holding in chosen]
