"""A change whose commit nobody heard of: a transaction that is tried again is told as it was made, not made twice."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, func, select

from domain.errors import IngleError
from domain.job_repository import Changed
from infrastructure.persistence.tables import job_events

Answers = Sequence[Changed | IngleError]


class OneChange:
    """Makes a change once, however often its transaction is tried."""

    def __init__(self) -> None:
        self._answers: Answers = ()
        # The newest event of a job that the last try moved: it is there if that try was committed, and only then.
        self._proof: int | None = None

    def make(self, connection: Connection, change: Callable[[Connection], Answers]) -> Answers:
        """The answers of `change`, or those of an earlier try that was committed after all."""
        seq = job_events.c.seq
        if self._proof is not None and connection.execute(select(seq).where(seq == self._proof)).first():
            return self._answers
        self._proof, self._answers = None, change(connection)
        moved = next((one.job.seq for one in self._answers if isinstance(one, Changed) and one.changed), None)
        if moved is not None:
            newest = select(func.max(seq)).where(job_events.c.job_seq == moved)
            self._proof = connection.execute(newest).scalar_one()
        return self._answers
