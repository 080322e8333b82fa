"""Places in line: where an owner's next job stands, and which served places must be remembered."""

from collections.abc import Iterable

from sqlalchemy import Connection, func, insert, select, text, update

from domain.fairness import first_tag, step_of
from domain.job import Job
from infrastructure.persistence.rules import owner_rules
from infrastructure.persistence.tables import jobs, queues

# `Job.served`, written out so that the partial index is seen to serve.
_SERVED = "attempt>0 AND (status IN ('running','completed') OR failure_count>0 OR snooze_count>0)"


def end_of_line(connection: Connection, profile: str, owner: str, step: float) -> tuple[float, int | None]:
    """(tag of the owner's next job, timeout of the queue)."""
    mine = jobs.c.model_profile == profile
    served = connection.execute(select(func.max(jobs.c.fair_tag)).where(mine, text(_SERVED))).scalar()
    last = connection.execute(select(func.max(jobs.c.fair_tag)).where(mine, jobs.c.owner_service == owner)).scalar()
    queue = connection.execute(
        select(queues.c.fair_floor, queues.c.timeout_ms).where(queues.c.model_profile == profile)
    ).first()
    floor, timeout = queue or (None, None)
    return first_tag(served, floor, last, step), timeout


class NewPlaces:
    """Tags at the ends of their owners' lines for jobs of one transaction, one behind the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._weights: dict[str, float] = {}
        self._last: dict[tuple[str, str], float] = {}

    def next(self, job: Job) -> float:
        """The tag of `job`."""
        owner, profile = job.owner_service, job.model_profile
        if owner not in self._weights:
            self._weights[owner] = owner_rules(self._connection, owner).weight
        step = step_of(job.cost, self._weights[owner])
        last = self._last.get((profile, owner))
        tag = end_of_line(self._connection, profile, owner, step)[0] if last is None else last + step
        self._last[profile, owner] = tag
        return tag


def remember_places(connection: Connection, leaving: Iterable[Job]) -> None:
    """Raise the floors of queues to the served places that these jobs leave, so that no newcomer gets one."""
    tags: dict[str, float] = {}
    for job in leaving:
        if job.served:
            tags[job.model_profile] = max(job.fair_tag, tags.get(job.model_profile, job.fair_tag))
    for profile, tag in sorted(tags.items()):
        there = connection.execute(select(queues.c.model_profile).where(queues.c.model_profile == profile)).first()
        if there is None:
            connection.execute(insert(queues).values(model_profile=profile, fair_floor=tag))
        else:
            higher = func.coalesce(queues.c.fair_floor, tag) <= tag
            connection.execute(update(queues).where(queues.c.model_profile == profile, higher).values(fair_floor=tag))
