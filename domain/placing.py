"""How new jobs become rows: what was asked before, what is active already, what the owner may have."""

from collections.abc import Mapping, Sequence
from typing import Any

from domain.errors import DedupeConflict, IdempotencyMismatch, PriorityAboveCap, QuotaExceeded
from domain.job import Job, JobStatus
from domain.job_limits import OwnerRules
from domain.job_repository import Placed
from domain.new_job import DAY_MS, NewBatch, NewJob, OnConflict


def arranged(
    jobs: Sequence[NewJob], by_key: Mapping[str, Job], active: Mapping[str, Job], *, indexed: bool
) -> list[NewJob | Placed | int]:
    """For each job: itself, the row that answers it, or the index of an earlier one of `jobs` that does.

    `by_key` and `active` are the owner's rows by idempotency_key and, those not over, by dedupe_key. Raises
    IdempotencyMismatch and DedupeConflict, with the index in its details if `indexed`.
    """
    keys: dict[str, int] = {}
    dedupes: dict[str, int] = {}
    answer: list[NewJob | Placed | int] = []
    for index, new in enumerate(jobs):
        where: dict[str, Any] = {"index": index} if indexed else {}
        entry: NewJob | Placed | int = new
        if new.idempotency_key in by_key or new.idempotency_key in keys:
            same = keys.get(new.idempotency_key or "")
            there = jobs[same] if same is not None else by_key[new.idempotency_key or ""]
            if there.request_sha256 != new.request_sha256:
                raise IdempotencyMismatch(**where)
            entry = same if same is not None else _found(there)
        elif new.dedupe_key in active or new.dedupe_key in dedupes:
            same = dedupes.get(new.dedupe_key or "")
            there = jobs[same] if same is not None else active[new.dedupe_key or ""]
            if new.on_conflict is OnConflict.ERROR:
                raise DedupeConflict(active_id=there.id, **where)
            entry = same if same is not None else _found(there)
        else:
            if new.idempotency_key is not None:
                keys[new.idempotency_key] = index
            if new.dedupe_key is not None:
                dedupes[new.dedupe_key] = index
        answer.append(entry)
    return answer


def _found(there: Job | NewJob) -> Placed:
    assert isinstance(there, Job)
    return Placed(there.id, there.status, created=False, job=there)


def made(new: NewJob, now: int, fair_tag: float, timeout_ms: int | None, batch: NewBatch | None, seq: int = 0) -> Job:
    """The row of a new job; `timeout_ms` is its queue's. Raises InvalidRequest where it is due too late."""
    due = new.due_at(now)
    return Job(
        seq=seq,
        id=new.id,
        owner_service=new.owner_service,
        owner_ref=new.owner_ref,
        task_type=new.task_type,
        model_profile=new.model_profile,
        priority=new.priority,
        status=JobStatus.PENDING,
        ready=due <= now,
        available_at=due,
        expires_at=None if new.expires_ms is None else due + new.expires_ms,
        fair_tag=fair_tag,
        cost=new.cost,
        input=new.input,
        metadata=new.metadata,
        max_attempts=new.max_attempts,
        timeout_ms=new.timeout_ms or timeout_ms or new.default_timeout_ms,
        retry=new.retry,
        callback_url=new.callback_url,
        callback_headers=new.callback_headers,
        include_result=new.include_result,
        idempotency_key=new.idempotency_key,
        request_sha256=new.request_sha256,
        dedupe_key=new.dedupe_key,
        batch_id=batch.id if batch else None,
        trace_id=new.trace_id,
        request_id=new.request_id,
        created_at=now,
    )


def check_priority(rules: OwnerRules, new: NewJob, index: int | None) -> None:
    """Raise PriorityAboveCap where `new` asks for more than its owner may."""
    if rules.priority_cap is not None and new.priority > rules.priority_cap:
        where: dict[str, Any] = {} if index is None else {"index": index}
        raise PriorityAboveCap(f"the priority of this owner's jobs is at most {rules.priority_cap}", **where)


def check_quota(rules: OwnerRules, *, pending: int, input_bytes: int, tokens: int, now: int) -> None:
    """Raise QuotaExceeded where an owner would have more than it may: jobs pending, bytes and tokens of this day.

    `pending` and `input_bytes` count the new jobs in; `tokens` are those already used. A day's quota is told with the
    time from `now` to the next day; when a pending job ends nobody knows.
    """
    tomorrow = (DAY_MS - now % DAY_MS) / 1000
    # What takes longest is told, so that nobody comes back only to be sent away again.
    for quota, used, allowed, wait in (
        ("input_bytes_per_day", input_bytes, rules.input_bytes_per_day, tomorrow),
        ("tokens_per_day", tokens + 1, rules.tokens_per_day, tomorrow),
        ("max_pending", pending, rules.max_pending, 1.0),
    ):
        if allowed is not None and used > allowed:
            text = f"this owner's {quota} is {allowed}"
            raise QuotaExceeded(text, retry_after_seconds=wait, quota=quota, limit=allowed)
