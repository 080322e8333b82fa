"""Who works, what it can run, and how often it looks for work."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

FIRST_POLL = 0.2


class Profiles(Protocol):
    """Which model profiles can be run here. Cheap, and raises nothing."""

    def runs(self, profile: str) -> bool:
        """Whether there is a model for it."""
        ...

    def loaded(self, profiles: Collection[str]) -> Collection[str]:
        """Those of `profiles` whose models are in memory."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Who works, how much at a time, and how often it looks. Seconds; a result takes at most `result_bytes`.

    One that is not `hinted` is told of jobs by their ids, and looks for others only every `poll_seconds`.
    """

    worker_id: str
    name: str
    host: str
    pid: int
    kind: str = "embedded"
    limit: int = 4
    poll_seconds: float = 2.0
    beat_seconds: float = 1.0
    hinted: bool = True
    result_bytes: int = 8 << 20


@dataclass(slots=True)
class Pace:
    """How long to wait for the next look: short after work, longer while there is none."""

    most: float
    first: float = FIRST_POLL
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def next(self) -> float:
        """Seconds until the next look."""
        pause = min(self.seconds, self.most)
        self.seconds = min(2 * self.seconds, self.most)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311

    def reset(self) -> None:
        """There was work."""
        self.seconds = self.first
