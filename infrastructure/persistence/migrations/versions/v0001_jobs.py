"""Jobs, their history, queues, owners, workers, deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_sha256", sa.Text(), nullable=True),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner_service", "idempotency_key", name="ux_batch_key"),
    )
    op.create_table(
        "folded",
        sa.Column("until", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("until"),
    )
    op.create_table(
        "job_events",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("ms", sa.BigInteger(), nullable=True),
        sa.Column("total_ms", sa.BigInteger(), nullable=True),
        sa.Column("tokens_in", sa.BigInteger(), nullable=True),
        sa.Column("tokens_out", sa.BigInteger(), nullable=True),
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("model_profile", sa.Text(), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_events_at", "job_events", ["at"], unique=False)
    op.create_index(
        "ix_events_gone",
        "job_events",
        ["at"],
        unique=False,
        sqlite_where=sa.text("kind='deleted'"),
        postgresql_where=sa.text("kind='deleted'"),
    )
    op.create_index("ix_events_job", "job_events", ["job_seq", "seq"], unique=False)
    op.create_table(
        "job_rollup",
        sa.Column("span", sa.Text(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("model_profile", sa.Text(), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("repeated", sa.BigInteger(), nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("wait_hist", sa.Text(), nullable=True),
        sa.Column("run_hist", sa.Text(), nullable=True),
        sa.Column("e2e_hist", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint(
            "span",
            "bucket",
            "owner_service",
            "model_profile",
            "task_type",
            "kind",
            "from_status",
            "to_status",
            "error_code",
        ),
    )
    op.create_table(
        "jobs",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("owner_ref", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("model_profile", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("ready", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("available_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("fair_tag", sa.Double(), nullable=False),
        sa.Column("cost", sa.Double(), server_default=sa.text("1"), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("input_bytes", sa.Integer(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("result_sha256", sa.Text(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failure_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("snooze_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("retry", sa.Text(), nullable=True),
        sa.Column("lease_ms", sa.BigInteger(), nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("locked_by", sa.Text(), nullable=True),
        sa.Column("heartbeat_at", sa.BigInteger(), nullable=True),
        sa.Column("attempt_started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_token", sa.Text(), nullable=True),
        sa.Column("finished_as", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("callback_headers", sa.Text(), nullable=True),
        sa.Column("include_result", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_sha256", sa.Text(), nullable=True),
        sa.Column("dedupe_key", sa.Text(), nullable=True),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("payload_purged_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(status IN ('completed','failed','cancelled')) = (finished_at IS NOT NULL)", name="ck_ended_has_time"
        ),
        sa.CheckConstraint("(status='running') = (lease_token IS NOT NULL)", name="ck_running_has_token"),
        sa.CheckConstraint("(idempotency_key IS NULL) = (request_sha256 IS NULL)", name="ck_key_has_hash"),
        sa.CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="ck_token_has_lease"),
        sa.CheckConstraint("failure_count BETWEEN 0 AND attempt", name="ck_failure_count"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        postgresql_with={"fillfactor": 80, "autovacuum_vacuum_scale_factor": 0.02},
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_batch",
        "jobs",
        ["batch_id", "seq"],
        unique=False,
        sqlite_where=sa.text("batch_id IS NOT NULL"),
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_claim",
        "jobs",
        ["model_profile", "task_type", sa.literal_column("priority DESC"), "fair_tag", "seq"],
        unique=False,
        sqlite_where=sa.text("status='pending' AND ready=1"),
        postgresql_where=sa.text("status='pending' AND ready=1"),
    )
    op.create_index(
        "ix_dispatch",
        "jobs",
        ["dispatched_at", "seq"],
        unique=False,
        sqlite_where=sa.text("status='pending' AND ready=1"),
        postgresql_where=sa.text("status='pending' AND ready=1"),
    )
    op.create_index(
        "ix_due",
        "jobs",
        ["available_at"],
        unique=False,
        sqlite_where=sa.text("status='pending' AND ready=0"),
        postgresql_where=sa.text("status='pending' AND ready=0"),
    )
    op.create_index(
        "ix_expire",
        "jobs",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("status='pending' AND expires_at IS NOT NULL"),
        postgresql_where=sa.text("status='pending' AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_failed",
        "jobs",
        [sa.literal_column("seq DESC")],
        unique=False,
        sqlite_where=sa.text("status='failed'"),
        postgresql_where=sa.text("status='failed'"),
    )
    op.create_index(
        "ix_fair_owner",
        "jobs",
        ["model_profile", "owner_service", "fair_tag"],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_index(
        "ix_fair_served",
        "jobs",
        ["model_profile", "fair_tag"],
        unique=False,
        sqlite_where=sa.text("attempt>0"),
        postgresql_where=sa.text("attempt>0"),
    )
    op.create_index(
        "ix_lease",
        "jobs",
        ["lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("status='running'"),
        postgresql_where=sa.text("status='running'"),
    )
    op.create_index(
        "ix_list",
        "jobs",
        ["owner_service", sa.literal_column("seq DESC")],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_index(
        "ix_owner_pending",
        "jobs",
        ["owner_service"],
        unique=False,
        sqlite_where=sa.text("status='pending'"),
        postgresql_where=sa.text("status='pending'"),
    )
    op.create_index(
        "ix_prune",
        "jobs",
        ["status", "finished_at"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_ref",
        "jobs",
        ["owner_service", "owner_ref", sa.literal_column("seq DESC")],
        unique=False,
        sqlite_where=None,
        postgresql_where=None,
    )
    op.create_index(
        "ix_running",
        "jobs",
        ["model_profile", "owner_service"],
        unique=False,
        sqlite_where=sa.text("status='running'"),
        postgresql_where=sa.text("status='running'"),
    )
    op.create_index(
        "ux_dedupe",
        "jobs",
        ["owner_service", "dedupe_key"],
        unique=True,
        sqlite_where=sa.text("dedupe_key IS NOT NULL AND status IN ('pending','running')"),
        postgresql_where=sa.text("dedupe_key IS NOT NULL AND status IN ('pending','running')"),
    )
    op.create_index(
        "ux_idem",
        "jobs",
        ["owner_service", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "owner_days",
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("day", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("input_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("owner_service", "day"),
    )
    op.create_table(
        "owners",
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("weight", sa.Double(), server_default=sa.text("1"), nullable=False),
        sa.Column("max_pending", sa.BigInteger(), nullable=True),
        sa.Column("max_running", sa.BigInteger(), nullable=True),
        sa.Column("priority_cap", sa.SmallInteger(), nullable=True),
        sa.Column("input_bytes_per_day", sa.BigInteger(), nullable=True),
        sa.Column("tokens_per_day", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("owner_service"),
    )
    op.create_table(
        "queues",
        sa.Column("model_profile", sa.Text(), nullable=False),
        sa.Column("paused", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=True),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.Column("breaker_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("lease_ms", sa.BigInteger(), nullable=True),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=True),
        sa.Column("retry", sa.Text(), nullable=True),
        sa.Column("fair_floor", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("model_profile"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("owner_service", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status_then", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_wh",
        "webhook_deliveries",
        ["next_at"],
        unique=False,
        sqlite_where=sa.text("status='queued'"),
        postgresql_where=sa.text("status='queued'"),
    )
    op.create_index("ix_wh_endpoint", "webhook_deliveries", ["owner_service", "endpoint"], unique=False)
    op.create_index("ix_wh_job", "webhook_deliveries", ["job_seq"], unique=False)
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("profiles", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id"),
    )
    op.create_table(
        "job_attempts",
        sa.Column("job_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "attempt"),
    )
