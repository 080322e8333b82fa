"""Prolonging leases: one statement for everything that a process holds."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnClause, Connection, Text, column

from domain.errors import IngleError, JobNotFound
from domain.job_fence import lease_lost
from domain.job_repository import Extension, Heartbeat
from infrastructure.persistence.database import Spelling
from infrastructure.persistence.many import ManyRows
from infrastructure.persistence.rows import as_json
from infrastructure.persistence.settling import rows_by_id

# A lease never grows past the deadline of its attempt, so a worker that hangs and beats loses its job too.
_BEAT = """
UPDATE jobs SET heartbeat_at=now_ms(), lease_expires_at=LEAST(now_ms()+lease_ms, attempt_started_at+timeout_ms),
  progress=COALESCE(given.progress, jobs.progress)
FROM {given} WHERE jobs.id=given.id AND jobs.status='running' AND jobs.lease_token=given.token
  AND jobs.attempt=COALESCE(given.attempt, jobs.attempt)
RETURNING jobs.id, jobs.attempt, jobs.lease_expires_at, jobs.attempt_started_at+jobs.timeout_ms AS deadline_at,
  jobs.cancel_requested_at, now_ms() AS now, jobs.cancel_reason
"""
_TIMES = ("attempt", "lease_expires_at", "deadline_at", "cancel_requested_at", "now")


class Beating:
    """The operation of `JobRepository.extend`."""

    def __init__(self, spelling: Spelling) -> None:
        fields = {"id": "text", "token": "text", "attempt": "bigint", "progress": "text"}
        returns: list[ColumnClause[Any]] = [
            column("id", Text),
            *(column(name, BigInteger) for name in _TIMES),
            column("cancel_reason", Text),
        ]
        self._beat = ManyRows(spelling, _BEAT, fields, returns)

    def extend(self, connection: Connection, beats: Sequence[Heartbeat]) -> list[Extension | IngleError]:
        """One answer for each, in order; of two beats of one job the last counts."""
        unique = {beat.job_id: beat for beat in beats}
        rows = [
            {"id": beat.job_id, "token": beat.lease_token, "attempt": beat.attempt, "progress": as_json(beat.progress)}
            for beat in sorted(unique.values(), key=lambda beat: beat.job_id)
        ]
        extended: dict[str, Extension] = {}
        for row in self._beat.run(connection, rows):
            asked = row.cancel_requested_at is not None
            late = row.deadline_at <= row.now
            reason = "timeout" if late else row.cancel_reason
            extended[row.id] = Extension(
                row.id, row.attempt, row.lease_expires_at, row.deadline_at, asked or late, reason
            )
        missed = [job_id for job_id in unique if job_id not in extended]
        there = rows_by_id(connection, missed) if missed else {}
        return [
            extended[beat.job_id]
            if beat.job_id in extended
            else lease_lost(there[beat.job_id], beat.attempt)
            if beat.job_id in there
            else JobNotFound()
            for beat in beats
        ]
