"""A change whose commit nobody heard of: a transaction that is tried again is told as it was made, not made twice."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy import Connection, func, select

from domain.errors import IngleError
from domain.job_repository import Changed, Settled
from infrastructure.persistence.tables import job_events

A = TypeVar("A", Changed, Settled)


class OneChange(Generic[A]):
    """Makes a change once, however often its transaction is tried."""

    def __init__(self) -> None:
        self._answers: Sequence[A | IngleError] = ()
        # The newest event of a job that the last try moved: it is there if that try was committed, and only then.
        self._proof: int | None = None

    def make(
        self, connection: Connection, change: Callable[[Connection], Sequence[A | IngleError]]
    ) -> Sequence[A | IngleError]:
        """The answers of `change`, or those of an earlier try that was committed after all."""
        seq = job_events.c.seq
        if self._proof is not None and connection.execute(select(seq).where(seq == self._proof)).first():
            return self._answers
        self._proof, self._answers = None, change(connection)
        moved = next((one.job.seq for one in self._answers if not isinstance(one, IngleError) and _moved(one)), None)
        if moved is not None:
            newest = select(func.max(seq)).where(job_events.c.job_seq == moved)
            self._proof = connection.execute(newest).scalar_one()
        return self._answers


def _moved(answer: Changed | Settled) -> bool:
    return answer.changed if isinstance(answer, Changed) else not answer.replayed
