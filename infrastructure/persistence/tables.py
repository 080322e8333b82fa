"""The tables. Times are milliseconds since the epoch, flags small integers, payloads JSON as text.

Text on both databases, because key order and numbers must come back as they were sent and nothing queries inside them.
The migrations make the tables; a test compares the two.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from infrastructure.persistence.columns import SEQ, needed, numbered

metadata = MetaData()

_FAST_VACUUM = {"fillfactor": 80, "autovacuum_vacuum_scale_factor": 0.02}

jobs = Table(
    "jobs",
    metadata,
    numbered(),
    Column("id", Text, unique=True, nullable=False),
    needed("owner_service", Text),
    needed("owner_ref", Text, "''"),
    needed("task_type", Text),
    needed("model_profile", Text),
    needed("priority", SmallInteger, "0", CheckConstraint("priority BETWEEN -10 AND 10", name="ck_priority")),
    needed(
        "status",
        Text,
        None,
        CheckConstraint("status IN ('pending','running','completed','failed','cancelled')", name="ck_status"),
    ),
    needed("ready", SmallInteger, "1", CheckConstraint("ready IN (0,1)", name="ck_ready")),
    needed("available_at", BigInteger),
    Column("expires_at", BigInteger),
    needed("fair_tag", Double),
    needed("cost", Double, "1"),
    needed("input", Text),
    needed("input_bytes", Integer),
    Column("metadata", Text),
    Column("result", Text),
    Column("result_sha256", Text),
    Column("usage", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    needed("attempt", Integer, "0"),
    needed("failure_count", Integer, "0"),
    needed("snooze_count", Integer, "0"),
    needed("max_attempts", Integer, None, CheckConstraint("max_attempts BETWEEN 1 AND 100", name="ck_max_attempts")),
    needed("timeout_ms", BigInteger),
    Column("retry", Text),
    Column("lease_ms", BigInteger),
    Column("lease_token", Text),
    Column("lease_expires_at", BigInteger),
    Column("locked_by", Text),
    Column("heartbeat_at", BigInteger),
    Column("attempt_started_at", BigInteger),
    Column("finished_token", Text),
    Column("finished_as", Text),
    Column("progress", Text),
    Column("cancel_requested_at", BigInteger),
    Column("cancel_reason", Text),
    Column("callback_url", Text),
    Column("callback_headers", Text),
    needed("include_result", SmallInteger, "0"),
    Column("dispatched_at", BigInteger),
    Column("idempotency_key", Text),
    Column("request_sha256", Text),
    Column("dedupe_key", Text),
    Column("batch_id", Text),
    Column("trace_id", Text),
    Column("request_id", Text),
    needed("created_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("payload_purged_at", BigInteger),
    CheckConstraint("(status='running') = (lease_token IS NOT NULL)", name="ck_running_has_token"),
    CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="ck_token_has_lease"),
    CheckConstraint("failure_count BETWEEN 0 AND attempt", name="ck_failure_count"),
    CheckConstraint(
        "(status IN ('completed','failed','cancelled')) = (finished_at IS NOT NULL)", name="ck_ended_has_time"
    ),
    CheckConstraint("(idempotency_key IS NULL) = (request_sha256 IS NULL)", name="ck_key_has_hash"),
    # A number must not come back after the newest job is deleted: history is kept under it.
    sqlite_autoincrement=True,
    postgresql_with=_FAST_VACUUM,
)


def _index(name: str, *columns: Any, where: str | None = None, unique: bool = False) -> None:
    condition = None if where is None else text(where)
    Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition, _table=jobs)


# No full index may begin with status: a SQLite that never ran ANALYZE would prefer it to the partial ones.
_J = jobs.c
_READY = "status='pending' AND ready=1"
_index("ix_claim", _J.model_profile, _J.task_type, _J.priority.desc(), _J.fair_tag, _J.seq, where=_READY)
_index("ix_due", _J.available_at, where="status='pending' AND ready=0")
_index("ix_expire", _J.expires_at, where="status='pending' AND expires_at IS NOT NULL")
_index("ix_lease", _J.lease_expires_at, where="status='running'")
_index("ix_running", _J.model_profile, _J.owner_service, where="status='running'")
_index("ix_owner_pending", _J.owner_service, where="status='pending'")
_index("ux_idem", _J.owner_service, _J.idempotency_key, where="idempotency_key IS NOT NULL", unique=True)
_index(
    "ux_dedupe",
    _J.owner_service,
    _J.dedupe_key,
    where="dedupe_key IS NOT NULL AND status IN ('pending','running')",
    unique=True,
)
_index("ix_fair_owner", _J.model_profile, _J.owner_service, _J.fair_tag)
_index("ix_fair_served", _J.model_profile, _J.fair_tag, where="attempt>0")
_index("ix_list", _J.owner_service, _J.seq.desc())
_index("ix_ref", _J.owner_service, _J.owner_ref, _J.seq.desc())
_index("ix_failed", _J.seq.desc(), where="status='failed'")
_index("ix_batch", _J.batch_id, _J.seq, where="batch_id IS NOT NULL")
_index("ix_prune", _J.status, _J.finished_at, where="finished_at IS NOT NULL")
_index("ix_dispatch", _J.dispatched_at, _J.seq, where=_READY)

job_attempts = Table(
    "job_attempts",
    metadata,
    Column("job_seq", SEQ, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    needed("worker_id", Text),
    needed("started_at", BigInteger),
    needed("ended_at", BigInteger),
    needed("outcome", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("usage", Text),
)

job_events = Table(
    "job_events",
    metadata,
    numbered(),
    needed("job_seq", BigInteger),
    needed("at", BigInteger),
    needed("kind", Text),
    needed("actor", Text),
    Column("from_status", Text),
    Column("to_status", Text),
    needed("attempt", Integer),
    Column("error_code", Text),
    Column("note", Text),
    Column("ms", BigInteger),
    Column("total_ms", BigInteger),
    Column("tokens_in", BigInteger),
    Column("tokens_out", BigInteger),
    needed("owner_service", Text),
    needed("model_profile", Text),
    needed("task_type", Text),
    Index("ix_events_job", "job_seq", "seq"),
    Index("ix_events_at", "at"),
    Index("ix_events_gone", "at", sqlite_where=text("kind='deleted'"), postgresql_where=text("kind='deleted'")),
)

job_rollup = Table(
    "job_rollup",
    metadata,
    Column("span", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    *(
        Column(name, Text, primary_key=True)
        for name in ("owner_service", "model_profile", "task_type", "kind", "from_status", "to_status", "error_code")
    ),
    needed("n", BigInteger),
    needed("attempts", BigInteger),
    needed("repeated", BigInteger),
    needed("tokens_in", BigInteger),
    needed("tokens_out", BigInteger),
    Column("wait_hist", Text),
    Column("run_hist", Text),
    Column("e2e_hist", Text),
)

# One row: everything before that time is in job_rollup, and nothing after it.
folded = Table("folded", metadata, Column("until", BigInteger, primary_key=True, autoincrement=False))

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    needed("owner_service", Text),
    Column("idempotency_key", Text),
    Column("request_sha256", Text),
    needed("response", Text),
    needed("created_at", BigInteger),
    UniqueConstraint("owner_service", "idempotency_key", name="ux_batch_key"),
)

queues = Table(
    "queues",
    metadata,
    Column("model_profile", Text, primary_key=True),
    needed("paused", SmallInteger, "0"),
    Column("held_until", BigInteger),
    Column("held_reason", Text),
    needed("breaker_failures", Integer, "0"),
    Column("max_running", Integer),
    Column("lease_ms", BigInteger),
    Column("timeout_ms", BigInteger),
    Column("retry", Text),
    Column("fair_floor", Double),
)

owners = Table(
    "owners",
    metadata,
    Column("owner_service", Text, primary_key=True),
    needed("weight", Double, "1"),
    Column("max_pending", BigInteger),
    Column("max_running", BigInteger),
    Column("priority_cap", SmallInteger),
    Column("input_bytes_per_day", BigInteger),
    Column("tokens_per_day", BigInteger),
)

owner_days = Table(
    "owner_days",
    metadata,
    Column("owner_service", Text, primary_key=True),
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    needed("input_bytes", BigInteger, "0"),
    needed("tokens", BigInteger, "0"),
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Text, primary_key=True),
    needed("name", Text),
    needed("kind", Text),
    needed("host", Text),
    needed("pid", BigInteger),
    needed("profiles", Text),
    needed("started_at", BigInteger),
    needed("last_seen_at", BigInteger),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    needed("job_seq", BigInteger),
    needed("job_id", Text),
    needed("owner_service", Text),
    needed("event", Text),
    needed("attempt", Integer),
    needed("status_then", Text),
    Column("error_code", Text),
    needed("endpoint", Text),
    Column("headers", Text),
    Column("body", Text),
    needed("status", Text, "'queued'"),
    needed("tries", Integer, "0"),
    needed("next_at", BigInteger),
    Column("last_status", Integer),
    Column("last_error", Text),
    needed("created_at", BigInteger),
    Index("ix_wh", "next_at", sqlite_where=text("status='queued'"), postgresql_where=text("status='queued'")),
    Index("ix_wh_job", "job_seq"),
    Index("ix_wh_endpoint", "owner_service", "endpoint"),
)

# Whose bytes lie in a folder. A file goes by the jobs that use it, see persistence/files.py.
files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    needed("owner_service", Text),
    needed("size_bytes", BigInteger),
    needed("created_at", BigInteger),
    needed("expires_at", BigInteger),
    Index("ix_files_age", "created_at"),
)

file_uses = Table(
    "file_uses",
    metadata,
    Column("file_id", Text, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    # No foreign key: a use is noted before its job, so that no file goes between the two.
    Column("job_id", Text, primary_key=True),
    Index("ix_file_uses_job", "job_id"),
)
