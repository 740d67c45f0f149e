"""Results, the deliveries ledger, and a view of percentiles for BI tools."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "simulation_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("llm_name", sa.String(50), nullable=False),
        sa.Column("metric", sa.String(20), nullable=False),
        sa.Column("values", postgresql.ARRAY(sa.DOUBLE_PRECISION()), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_simulation_results")),
        sa.UniqueConstraint(
            "llm_name",
            "metric",
            "timestamp",
            name=op.f("uq_simulation_results_llm_name_metric_timestamp"),
        ),
        sa.CheckConstraint(
            "metric IN ('TTFT', 'TPS', 'e2e_latency', 'RPS')",
            name=op.f("ck_simulation_results_metric_known"),
        ),
    )
    op.create_table(
        "deliveries",
        sa.Column("llm_name", sa.String(50), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message_id", postgresql.UUID(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("llm_name", "timestamp", name=op.f("pk_deliveries")),
    )
    op.create_index(
        "ix_deliveries_pending",
        "deliveries",
        ["timestamp", "llm_name"],
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.execute(
        """
        CREATE VIEW metric_summary AS
        SELECT r.llm_name, r.metric, r."timestamp", s.n, s.mean, s.p50, s.p95, s.p99
        FROM simulation_results AS r
        CROSS JOIN LATERAL (
            SELECT
                count(*) AS n,
                avg(value) AS mean,
                percentile_cont(0.50) WITHIN GROUP (ORDER BY value) AS p50,
                percentile_cont(0.95) WITHIN GROUP (ORDER BY value) AS p95,
                percentile_cont(0.99) WITHIN GROUP (ORDER BY value) AS p99
            FROM unnest(r."values") AS value
        ) AS s
        """
    )


def downgrade() -> None:
    op.execute("DROP VIEW metric_summary")
    op.drop_table("deliveries")
    op.drop_table("simulation_results")
