"""JobRepository in a database: each call one transaction."""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import select

from application.job_ports import WakeUp
from application.off_loop import off_loop
from domain.claim_order import Pair, Streak, visiting_order
from domain.errors import IngleError, JobNotFound
from domain.job import Job, JobStatus
from domain.job_repository import (
    Added,
    Cancel,
    Changed,
    Chore,
    Claim,
    Complete,
    Delete,
    Expire,
    Extension,
    Heartbeat,
    JobFilter,
    Page,
    Promote,
    Prune,
    Reap,
    Retry,
    Settled,
    Settlement,
)
from domain.new_job import NewBatch, NewJob
from infrastructure.persistence.adding import Adding
from infrastructure.persistence.beating import Beating
from infrastructure.persistence.claiming import Claiming
from infrastructure.persistence.coalescer import Coalescer
from infrastructure.persistence.database import Database, Operation, T
from infrastructure.persistence.moving import STEP, Moving
from infrastructure.persistence.rows import COLUMNS, job_of, read_out
from infrastructure.persistence.searching import search_query
from infrastructure.persistence.settling import Report, Settling
from infrastructure.persistence.tables import jobs
from infrastructure.persistence.unheard import OneChange

_JOB = [jobs.c[name] for name in COLUMNS]
_SETTLES = 64
# How long the list of pairs with ready work is believed, and how often due jobs are promoted, in seconds.
_FRESH = 0.25
_WORKERS_REMEMBERED = 1000


class SqlJobRepository:
    """Jobs in a database. Rings `wake_up` once work that somebody may claim is committed."""

    def __init__(
        self, database: Database, wake_up: WakeUp, *, lease_ms: int = 60_000, fresh_seconds: float = _FRESH
    ) -> None:
        self._database, self._wake_up, self._fresh = database, wake_up, fresh_seconds
        spelling = database.spelling
        self._adding, self._claiming = Adding(spelling), Claiming(spelling, lease_ms)
        self._settling, self._moving, self._beating = Settling(spelling), Moving(spelling), Beating(spelling)
        self._settle: Coalescer[Report, Settled] = Coalescer(self._settle_all, most=_SETTLES, in_flight=2)
        self._pairs: list[Pair] = []
        self._pairs_at = self._promoted_at = -1e9
        self._turn = 0
        self._streaks: dict[str, Streak] = {}
        wake_up.listen(lambda _: self._forget_pairs())

    async def add(self, jobs: Sequence[NewJob], batch: NewBatch | None = None) -> Added:
        """Put jobs in line, all or none."""
        tries = itertools.count()
        added = await self._database.write(
            lambda c: self._adding.add(c, jobs, batch, again=next(tries) > 0), repeatable=True
        )
        self._ring(one.job for one in added.placed if one.created and one.job is not None)
        placed = [one if one.job is None else replace(one, job=await read_out(one.job)) for one in added.placed]
        return replace(added, placed=placed)

    async def get(self, job_id: str, owners: Collection[str] | None = None, profiles: Collection[str] = ()) -> Job:
        """That job."""
        query = select(*_JOB).where(jobs.c.id == job_id)
        if owners is not None:
            query = query.where(jobs.c.owner_service.in_(owners) | jobs.c.model_profile.in_(profiles))
        row = await self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise JobNotFound
        return await read_out(job_of(row))

    async def search(
        self, wanted: JobFilter, limit: int, before: int | None = None, *, payloads: Collection[str] = ()
    ) -> Page:
        """At most `limit` jobs, newest first."""
        query = search_query(wanted, limit, before, payloads)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        found = [await read_out(job_of(row)) for row in rows[:limit]]
        return Page(found, found[-1].seq if len(rows) > limit else None)

    async def claim(self, claim: Claim) -> Sequence[Job]:
        """Take ready jobs, best first."""
        now = time.monotonic()
        if now - self._promoted_at >= self._fresh:
            self._promoted_at = now
            await self.sweep(Promote())
        pairs = await self._wanted_pairs(claim, now)
        streak = self._streaks.pop(claim.worker_id, None) or Streak()
        self._turn += 1
        taken: list[Job] = []
        for pair in visiting_order(pairs, self._turn, claim.loaded, streak, now):
            if len(taken) == claim.limit:
                break
            taken += await self._take(claim, pair, claim.limit - len(taken))
        if claim.loaded:
            others = {profile for profile, _ in pairs if profile not in claim.loaded}
            streak.note([job.model_profile for job in taken], claim.loaded, others, now)
            self._streaks[claim.worker_id] = streak
            while len(self._streaks) > _WORKERS_REMEMBERED:
                del self._streaks[next(iter(self._streaks))]
        return [await read_out(job) for job in taken]

    async def _wanted_pairs(self, claim: Claim, now: float) -> list[Pair]:
        if claim.job_id is not None:
            query = select(jobs.c.model_profile, jobs.c.task_type).where(jobs.c.id == claim.job_id)
            rows = await self._database.read(lambda connection: connection.execute(query).all())
            pairs = [(row[0], row[1]) for row in rows]
        elif len(claim.model_profiles) == 1 and len(claim.task_types) == 1:
            return [(next(iter(claim.model_profiles)), next(iter(claim.task_types)))]
        else:
            if now - self._pairs_at >= self._fresh:
                self._pairs_at = now
                self._pairs = await self._database.read(self._claiming.ready_pairs)
            pairs = self._pairs
        profiles, tasks = set(claim.model_profiles), set(claim.task_types)
        return [(p, t) for p, t in pairs if (not profiles or p in profiles) and (not tasks or t in tasks)]

    async def _take(self, claim: Claim, pair: Pair, n: int) -> list[Job]:
        worker, lease_ms, job_id = claim.worker_id, claim.lease_ms, claim.job_id
        taken = await self._database.statement(lambda c: self._claiming.take(c, pair, worker, n, lease_ms, job_id))
        if not taken and await self._database.read(lambda c: self._claiming.may_be_limited(c, pair)):
            taken = await self._database.write(
                lambda c: self._claiming.within_limits(c, pair, worker, n, lease_ms, job_id)
            )
        return taken

    async def extend(self, beats: Sequence[Heartbeat]) -> Sequence[Extension | IngleError]:
        """Prolong leases, one answer for each."""
        return await self._database.write(lambda c: self._beating.extend(c, beats), repeatable=True)

    async def settle(self, settlement: Settlement) -> Settled:
        """Write the end of an attempt, once."""
        report = await off_loop(_result_of(settlement), partial(Report.of, settlement))
        settled = await self._settle(settlement.job_id, report)
        self._ring([] if settled.replayed else [settled.job])
        return replace(settled, job=await read_out(settled.job))

    async def _settle_all(self, reports: Sequence[Report]) -> Sequence[Settled | IngleError]:
        settle = partial(self._settling.settle, reports=reports)
        if all(one.settlement.lease_token is not None for one in reports):
            # Who comes again is known by the token.
            return await self._database.write(settle, repeatable=True)
        once: OneChange[Settled] = OneChange()
        return await self._database.write(lambda c: once.make(c, settle), repeatable=True)

    async def change(
        self, action: Cancel | Retry | Delete, job_ids: Sequence[str], owners: Collection[str] | None = None
    ) -> Sequence[Changed | IngleError]:
        """Do that to each job, in one transaction."""
        once: OneChange[Changed] = OneChange()
        answers = await self._database.write(
            lambda c: once.make(c, lambda c: self._moving.change(c, action, job_ids, owners)), repeatable=True
        )
        self._ring(one.job for one in answers if isinstance(one, Changed) and one.changed)
        return [replace(one, job=await read_out(one.job)) if isinstance(one, Changed) else one for one in answers]

    async def sweep(self, chore: Chore) -> int:
        """Do a chore, in steps of 500 rows a transaction."""
        moving = self._moving
        match chore:
            case Promote():
                return await self._in_steps(moving.promote, self._ring_profiles)
            case Expire():
                return await self._in_steps(moving.expire)
            case Reap(dead):
                done = await self._in_steps(lambda c: moving.reap(c, ()), self._ring_again)
                if dead:
                    done += await self._in_steps(lambda c: moving.reap(c, dead), self._ring_again)
                return done
            case Prune():
                return await self._prune(chore)

    async def _prune(self, chore: Prune) -> int:
        kept = {
            JobStatus.COMPLETED: chore.completed_ms,
            JobStatus.FAILED: chore.failed_ms,
            JobStatus.CANCELLED: chore.cancelled_ms,
        }
        done = 0
        for status, keep_ms in kept.items():
            done += await self._in_counts(partial(self._moving.prune, status=status, keep_ms=keep_ms))
            if chore.payload_ms is not None:
                done += await self._in_counts(partial(self._moving.blank, status=status, keep_ms=chore.payload_ms))
        await self._database.write(lambda c: self._moving.prune_beside(c, chore))
        return done

    async def _in_counts(self, step: Operation[int]) -> int:
        done = 0
        while True:
            count = await self._database.write(step, repeatable=True)
            done += count
            if count < STEP:
                return done

    async def _in_steps(self, step: Operation[list[T]], tell: Callable[[list[T]], None] = lambda _: None) -> int:
        done = 0
        while True:
            found = await self._database.write(step, repeatable=True)
            done += len(found)
            if found:
                tell(found)
            if len(found) < STEP:
                return done

    # -- hints ----------------------------------------------------------------------------------------

    def _forget_pairs(self) -> None:
        self._pairs_at = -1e9

    def _ring(self, changed: Iterable[Job]) -> None:
        """Tell of the profiles of jobs that are ready now."""
        self._ring_profiles({job.model_profile for job in changed if job.status is JobStatus.PENDING and job.ready})

    def _ring_again(self, before: Iterable[Job]) -> None:
        """Tell of the profiles of jobs that may have become ready."""
        self._ring_profiles({job.model_profile for job in before})

    def _ring_profiles(self, profiles: Iterable[str]) -> None:
        if ready := set(profiles):
            self._wake_up.ring(ready)


def _result_of(settlement: Settlement) -> Any:
    return settlement.report.result if isinstance(settlement.report, Complete) else None
