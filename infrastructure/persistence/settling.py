"""Writing the end of attempts: reports that arrive together go together.

A report's guard stands in the UPDATE itself, so a worker that lost its job changes nothing however late it writes. What
a failure leads to is decided from the row, which is locked until it is written.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Text, bindparam, column, select

from domain.errors import IngleError
from domain.job import EventKind, Job, JobStatus
from domain.job_fence import VERBS, after_missed_guard, holds, may_write
from domain.job_limits import BREAKER_FAILURES, BREAKER_HOLD_MS
from domain.job_moves import COMPLETED, Move, after_failure, after_release
from domain.job_repository import Complete, Fail, Settled, Settlement
from domain.new_job import DAY_MS
from domain.retry import ONCE, RetryPolicy, RetryRules
from infrastructure.persistence.database import Spelling
from infrastructure.persistence.history import Happened, record, tokens_of
from infrastructure.persistence.many import ManyRows
from infrastructure.persistence.rows import COLUMNS, JOB_COLUMNS, JOB_TYPES, as_json, job_of, rules_of
from infrastructure.persistence.tables import job_attempts, jobs, queues

_JOB = [jobs.c[name] for name in COLUMNS]
UNAVAILABLE = "provider_unavailable"

# What a report sets.
_SET = """
    status=given.status, finished_as=given.verb, ready=given.ready,
    available_at=CASE WHEN given.status='pending' THEN now_ms()+given.delay_ms ELSE available_at END,
    failure_count=failure_count+given.counted, snooze_count=snooze_count+given.snoozed,
    error_code=given.code, error_message=given.message,
    result=given.result, result_sha256=given.sha, usage=given.usage,
    finished_at=CASE WHEN given.status='pending' THEN NULL ELSE now_ms() END,
    finished_token=lease_token, lease_token=NULL, lease_expires_at=NULL, dispatched_at=NULL
"""
_GUARD = """
    jobs.id=given.id AND jobs.status='running' AND jobs.attempt=COALESCE(given.attempt, jobs.attempt)
    AND (jobs.lease_token=given.token OR (given.token IS NULL AND jobs.attempt=1))
"""
_BROKEN = "(SELECT breaker_failures FROM queues WHERE queues.model_profile=jobs.model_profile) AS broken"
_SETTLE = f"UPDATE jobs SET {_SET} FROM {{given}} WHERE {_GUARD} RETURNING {JOB_COLUMNS}, now_ms() AS at, {_BROKEN}"  # noqa: S608
_FIELDS = {
    "id": "text", "token": "text", "attempt": "bigint", "status": "text", "verb": "text", "ready": "smallint",
    "delay_ms": "bigint", "counted": "integer", "snoozed": "integer", "code": "text", "message": "text",
    "result": "text", "sha": "text", "usage": "text",
}  # fmt: skip

_RESET_BREAKER = """
UPDATE queues SET breaker_failures=0, held_until=NULL, held_reason=NULL
WHERE model_profile IN :profiles AND breaker_failures>0
"""
_COUNT_BREAKER = """
INSERT INTO queues (model_profile, paused, breaker_failures) VALUES (:profile, 0, 1)
ON CONFLICT (model_profile) DO UPDATE SET breaker_failures=queues.breaker_failures+1,
  held_until=CASE WHEN queues.breaker_failures+1 >= :most THEN now_ms()+:hold_ms ELSE queues.held_until END,
  held_reason=CASE WHEN queues.breaker_failures+1 >= :most THEN 'provider_unavailable' ELSE queues.held_reason END
"""
_COUNT_TOKENS = """
INSERT INTO owner_days (owner_service, day, input_bytes, tokens)
SELECT owner_service, :day, 0, :tokens FROM owners WHERE owner_service=:owner AND tokens_per_day IS NOT NULL
ON CONFLICT (owner_service, day) DO UPDATE SET tokens=owner_days.tokens+:tokens
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A settlement with its result as text, made outside the transaction so that nothing can break within."""

    settlement: Settlement
    result: str | None
    usage: str | None

    @classmethod
    def of(cls, settlement: Settlement) -> "Report":
        """Serialise what it carries."""
        report = settlement.report
        if not isinstance(report, Complete):
            return cls(settlement, None, None)
        return cls(settlement, as_json(report.result), as_json(report.usage))


@dataclass(frozen=True, slots=True)
class _Written:
    """A job after its move, when that was, and how many failures its queue's breaker had counted before."""

    job: Job
    move: Move
    at: int
    broken: int


class Settling:
    """The operation of `JobRepository.settle`, for several at once; no job twice."""

    def __init__(self, spelling: Spelling) -> None:
        self._write = ManyRows(
            spelling, _SETTLE, _FIELDS, [*JOB_TYPES, column("at", BigInteger), column("broken", BigInteger)]
        )
        self._reset_breaker = spelling.sql(_RESET_BREAKER).bindparams(bindparam("profiles", type_=Text, expanding=True))
        self._count_breaker = spelling.sql(_COUNT_BREAKER)
        self._count_tokens = spelling.sql(_COUNT_TOKENS)

    def settle(self, connection: Connection, reports: Sequence[Report]) -> list[Settled | IngleError]:
        """One answer for each, in order."""
        moves = self._decide(connection, reports)
        written = self._written(connection, [(one, moves[one.settlement.job_id]) for one in reports])
        missed = [one.settlement.job_id for one in reports if one.settlement.job_id not in written]
        there = rows_by_id(connection, missed) if missed else {}
        answers: list[Settled | IngleError] = []
        happened: list[Happened] = []
        for one in reports:
            if (done := written.get(one.settlement.job_id)) is None:
                answers.append(_refusal(there.get(one.settlement.job_id), one.settlement))
            else:
                answers.append(Settled(done.job))
                happened.append(_happened(one, done))
        record(connection, happened)
        self._count(connection, happened, {one.job.model_profile: one.broken for one in written.values() if one.broken})
        return answers

    def _decide(self, connection: Connection, reports: Sequence[Report]) -> dict[str, Move | None]:
        """Job id → what its report leads to; None where it may not be written."""
        moves: dict[str, Move | None] = {}
        undecided: list[Settlement] = []
        for settlement in (one.settlement for one in reports):
            if isinstance(settlement.report, Complete):
                moves[settlement.job_id] = COMPLETED if may_write(settlement) else None
            else:
                undecided.append(settlement)
        if not undecided:
            return moves
        there = rows_by_id(connection, [settlement.job_id for settlement in undecided], lock=True)
        policies = Policies(connection, there.values())
        for settlement in undecided:
            job = there.get(settlement.job_id)
            held = job is not None and may_write(settlement) and holds(job, settlement)
            moves[settlement.job_id] = _move(connection, job, settlement, policies) if job and held else None
        return moves

    def _written(self, connection: Connection, decided: Sequence[tuple[Report, Move | None]]) -> dict[str, _Written]:
        """Write the moves under their guards; an entry for each job whose guard held."""
        moves = {report.settlement.job_id: move for report, move in decided if move is not None}
        values = [_values(report, move) for report, move in decided if move is not None]
        written = [(job_of(row), int(row.at), int(row.broken or 0)) for row in self._write.run(connection, values)]
        return {job.id: _Written(job, moves[job.id], at, broken) for job, at, broken in written}

    def _count(self, connection: Connection, happened: Sequence[Happened], broken: Mapping[str, int]) -> None:
        """What an ended attempt means to its queue's breaker and its owner's tokens."""
        if healed := {one.job.model_profile for one in happened if _heals(one, broken.get(one.job.model_profile, 0))}:
            connection.execute(self._reset_breaker, {"profiles": sorted(healed)})
        for one in sorted(happened, key=lambda one: one.job.model_profile):
            if one.code == UNAVAILABLE:
                values = {"profile": one.job.model_profile, "most": BREAKER_FAILURES, "hold_ms": BREAKER_HOLD_MS}
                connection.execute(self._count_breaker, values)
        for one in sorted(happened, key=lambda one: one.job.owner_service):
            if tokens := sum(count or 0 for count in tokens_of(one.usage)):
                day = one.at // DAY_MS
                values = {"owner": one.job.owner_service, "day": day, "tokens": tokens}
                connection.execute(self._count_tokens, values)


class Policies:
    """The retry policies of jobs, the rules of their queues read once."""

    def __init__(self, connection: Connection, of: Any) -> None:
        profiles = sorted({job.model_profile for job in of})
        query = select(queues.c.model_profile, queues.c.retry).where(queues.c.model_profile.in_(profiles))
        rows = connection.execute(query) if profiles else ()
        self._rules: Mapping[str, RetryRules | None] = {profile: rules_of(retry) for profile, retry in rows}

    def of(self, job: Job) -> RetryPolicy:
        """The policy of that job."""
        return RetryPolicy.of(job.retry, self._rules.get(job.model_profile))


def _move(connection: Connection, job: Job, settlement: Settlement, policies: Policies) -> Move:
    report = settlement.report
    if not isinstance(report, Fail):
        assert not isinstance(report, Complete)
        return after_release(job, report.delay_ms, report.reason)
    earlier: list[str] = []
    if report.code in ONCE:
        query = select(job_attempts.c.error_code).where(job_attempts.c.job_seq == job.seq)
        earlier = [code for code in connection.execute(query).scalars() if code is not None]
    return after_failure(
        job,
        policies.of(job),
        report.code,
        report.message,
        jitter=jitter(),
        retry_after_ms=report.retry_after_ms,
        retryable=report.retryable,
        earlier_codes=earlier,
    )


def _happened(report: Report, written: _Written) -> Happened:
    job, move, said = written.job, written.move, report.settlement.report
    return Happened(
        job,
        move.kind,
        job.locked_by or "",
        JobStatus.RUNNING,
        written.at,
        move.to,
        move.code,
        move.message,
        move.outcome,
        said.usage if isinstance(said, Complete) else None,
        deliver=move.to.terminal,
    )


def _heals(one: Happened, failures: int) -> bool:
    """Whether its queue's breaker, which has counted so many failures in a row, begins anew.

    Another failure ends the row; only a success closes a breaker that is open.
    """
    if not failures or one.to is JobStatus.COMPLETED:
        return failures > 0
    fails = one.kind in (EventKind.FAILED, EventKind.RETRY_SCHEDULED, EventKind.SNOOZED)
    return fails and one.code != UNAVAILABLE and failures < BREAKER_FAILURES


def jitter() -> float:
    """U(0.5, 1): keeps jobs that failed together from coming back together."""
    return random.uniform(0.5, 1.0)  # noqa: S311


def _values(report: Report, move: Move) -> dict[str, Any]:
    said = report.settlement.report
    return {
        "id": report.settlement.job_id,
        "token": report.settlement.lease_token,
        "attempt": report.settlement.attempt,
        "status": str(move.to),
        "verb": VERBS[type(said)],
        "ready": int(move.ready),
        "delay_ms": move.delay_ms,
        "counted": move.counted,
        "snoozed": move.snoozed,
        "code": move.code,
        "message": move.message,
        "result": report.result,
        "sha": said.result_sha256 if isinstance(said, Complete) else None,
        "usage": report.usage,
    }


def _refusal(job: Job | None, settlement: Settlement) -> Settled | IngleError:
    try:
        return after_missed_guard(job, settlement)
    except IngleError as error:
        return error


def rows_by_id(
    connection: Connection, ids: Sequence[str], owners: Collection[str] | None = None, *, lock: bool = False
) -> dict[str, Job]:
    """Job id → job, for those that there are for `owners`; `lock` holds the rows, in the order of their making."""
    query = select(*_JOB).where(jobs.c.id.in_(ids)).order_by(jobs.c.seq)
    if owners is not None:
        query = query.where(jobs.c.owner_service.in_(owners))
    rows: Sequence[Row[Any]] = connection.execute(query.with_for_update() if lock else query).all()
    found = (job_of(row) for row in rows)
    return {job.id: job for job in found}
