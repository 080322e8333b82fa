"""Which texts are read together: rows of about one length, every caller in turn. No tensors here."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# Up to this length a row may be padded as far as it takes: a further step would cost more than the padding.
_SHORT = 32


@dataclass(slots=True, eq=False)
class Work:
    """The texts of one caller as token ids.

    `pending` are the numbers of the rows that were not taken yet, the longest last; `tokens_left` are theirs.
    """

    rows: Sequence[Sequence[int]] = ()
    pending: list[int] = field(default_factory=list)
    tokens_left: int = 0

    def fill(self, rows: Sequence[Sequence[int]]) -> None:
        """The texts are tokens now. No row may be empty."""
        self.rows = rows
        self.pending = sorted(range(len(rows)), key=self.length_of)
        self.tokens_left = sum(map(len, rows))

    def length_of(self, row: int) -> int:
        """Tokens of one row."""
        return len(self.rows[row])

    def take(self, shortest: int, longest: int, count: int) -> list[int]:
        """Up to `count` pending rows with a length from `shortest` to `longest`, the longest first."""
        end = bisect_right(self.pending, longest, key=self.length_of)
        begin = max(bisect_left(self.pending, shortest, key=self.length_of), end - count)
        taken = self.pending[begin:end]
        del self.pending[begin:end]
        self.tokens_left -= sum(map(self.length_of, taken))
        return taken[::-1]


W = TypeVar("W", bound=Work)


class Backlog(Generic[W]):
    """The works that have pending rows.

    Callers take turns at leading a batch with their longest row, so that one text is read soon after it came,
    however many another caller sent; rows of about the same length join, whoever sent them.
    """

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens` bounds a batch, padding included; a longer row is read alone."""
        self._max_tokens = max_tokens
        self._works: deque[W] = deque()

    def __len__(self) -> int:
        return len(self._works)

    def add(self, work: W) -> None:
        """Let `work`, which has pending rows, wait for its turn."""
        self._works.append(work)

    def discard(self, work: W) -> None:
        """Forget `work`, if it is here."""
        if work in self._works:
            self._works.remove(work)

    def next_batch(self) -> list[tuple[W, int]]:
        """What to read next, as works and numbers of their rows, the leader's longest first; empty if nothing waits."""
        if not self._works:
            return []
        lead = self._works[0]
        longest = lead.length_of(lead.pending[-1])
        shortest = 0 if longest <= _SHORT else longest // 2
        room = max(1, self._max_tokens // longest)
        batch: list[tuple[W, int]] = []
        for work in self._works:
            batch += [(work, row) for row in work.take(shortest, longest, room - len(batch))]
            if len(batch) == room:
                break
        self._works.rotate(-1)
        self._works = deque(work for work in self._works if work.pending)
        return batch
