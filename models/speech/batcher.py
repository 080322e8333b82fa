"""Which windows the device hears next: batches across requests, a fair share for everybody.

Pure: times are given, nothing is decoded here. Clients share by the seconds of audio they were served, and so do
the requests of one client; whoever comes new starts where those who wait are, so it neither owes nor has saved.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Generic, Protocol, TypeVar

INTERACTIVE_WEIGHT = 4.0
BACKGROUND_WEIGHT = 1.0


class Waiting(Protocol):
    """A window that waits; rows of one batch have the same `key`."""

    @property
    def key(self) -> Hashable:
        """What it has to share with the others of its batch."""
        ...

    @property
    def seconds(self) -> float:
        """How much sound it is."""
        ...


R = TypeVar("R", bound=Waiting)


@dataclass(eq=False)
class Line(Generic[R]):
    """The windows of one request, in order. While `in_order`, the first one has to be in every batch."""

    client: str = ""
    priority: int = 0
    weight: float = INTERACTIVE_WEIGHT
    in_order: bool = False
    rows: deque[R] = field(default_factory=deque)
    served: float = 0.0

    @property
    def seconds(self) -> float:
        """How much sound waits."""
        return sum(row.seconds for row in self.rows)


class Batcher(Generic[R]):
    """Lines of windows in, batches of at most `max_rows` out."""

    def __init__(self, max_rows: int, wait_seconds: float = 0.03) -> None:
        """An idle device waits `wait_seconds` for company before it starts a batch that is not full."""
        self.max_rows = max_rows
        self._wait = wait_seconds
        self._lines: list[Line[R]] = []
        self._clients: dict[str, float] = {}
        self._idle = True
        self._since: float | None = None

    def __iter__(self) -> Iterator[Line[R]]:
        return iter(self._lines)

    def enter(self, line: Line[R]) -> None:
        """`line` takes part from now on."""
        peers = [other for other in self._lines if other.client == line.client]
        line.served = min((other.served for other in peers), default=0.0)
        if not peers:
            self._clients[line.client] = min(self._clients.values(), default=0.0)
        self._lines.append(line)

    def leave(self, line: Line[R]) -> None:
        """`line` is over, whatever waits in it."""
        if line in self._lines:
            self._lines.remove(line)
            if all(other.client != line.client for other in self._lines):
                del self._clients[line.client]

    def add(self, line: Line[R], rows: Iterable[R], now: float) -> None:
        """More windows of `line`."""
        line.rows.extend(rows)
        if self._since is None and line.rows:
            self._since = now

    def put_back(self, line: Line[R], rows: Iterable[R]) -> None:
        """Windows that were taken and not heard: they come first."""
        line.rows.extendleft(reversed(list(rows)))

    def hurry(self) -> None:
        """Who waits for company has waited long enough, whatever the clock says."""
        if self._since is not None:
            self._since = -inf

    def next(self, now: float) -> list[tuple[Line[R], R]]:
        """The next batch, whose rows leave their lines; empty if there is none, or none yet."""
        ranked = sorted((line for line in self._lines if line.rows), key=self._rank)
        if not ranked:
            self._idle, self._since = True, None
            return []
        batch = self._fill(ranked)
        if self._idle and len(batch) < self.max_rows and self._since is not None and now < self._since + self._wait:
            return []
        self._idle, self._since = False, None
        for line, row in batch:
            line.rows.remove(row)
            line.served += row.seconds / line.weight
            self._clients[line.client] += row.seconds / line.weight
        return batch

    def _rank(self, line: Line[R]) -> tuple[float, ...]:
        return (-line.priority, self._clients[line.client], line.served)

    def _fill(self, ranked: list[Line[R]]) -> list[tuple[Line[R], R]]:
        """Rows that go with the first row of the first line; everybody's share counts what the batch takes already."""
        key = ranked[0].rows[0].key
        offers = {id(line): deque(self._matching(line, key)) for line in ranked}
        taken_by_client = dict(self._clients)
        taken = {id(line): line.served for line in ranked}
        batch: list[tuple[Line[R], R]] = []
        while len(batch) < self.max_rows:
            able = [line for line in ranked if offers[id(line)]]
            if not able:
                break
            line = min(able, key=lambda one: (-one.priority, taken_by_client[one.client], taken[id(one)]))
            row = offers[id(line)].popleft()
            batch.append((line, row))
            taken[id(line)] += row.seconds / line.weight
            taken_by_client[line.client] += row.seconds / line.weight
        return batch

    @staticmethod
    def _matching(line: Line[R], key: Hashable) -> list[R]:
        if line.in_order and line.rows[0].key != key:
            return []
        return [row for row in line.rows if row.key == key]
