"""The simulated events, and which windows each of them overlaps."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "simulated_events",
        sa.Column(
            "event_id",
            postgresql.UUID(),
            nullable=False,
            comment="Made from model, kind, start, end, size and metrics",
        ),
        sa.Column("llm_name", sa.String(50), nullable=False, comment="The model"),
        sa.Column(
            "kind",
            sa.String(20),
            nullable=False,
            comment="incident, level_shift, capacity, burst, failure_spell, release or retirement",
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Its first instant",
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="The first instant after it; null: what started lasts for good",
        ),
        sa.Column(
            "size",
            sa.DOUBLE_PRECISION(),
            nullable=False,
            comment="A factor or a share, depending on the kind",
        ),
        sa.Column(
            "metrics",
            postgresql.ARRAY(sa.String(20)),
            nullable=False,
            comment="Those that the event moves",
        ),
        sa.Column(
            "window_seconds",
            sa.Integer(),
            nullable=False,
            comment="Length of the windows that the event was written with",
        ),
        sa.Column(
            "window_starts",
            postgresql.TSTZRANGE(),
            sa.Computed(
                "tstzrange((started_at AT TIME ZONE 'UTC' - make_interval(secs => window_seconds))"
                " AT TIME ZONE 'UTC', coalesce(ended_at, started_at),"
                " CASE WHEN ended_at IS NULL THEN '(]' ELSE '()' END)",
                persisted=True,
            ),
            comment="Starts of the windows that overlap it; without an end, its start counts",
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_simulated_events")),
        sa.CheckConstraint(
            "kind IN ('incident', 'level_shift', 'capacity', 'burst', 'failure_spell', 'release',"
            " 'retirement')",
            name=op.f("ck_simulated_events_kind_known"),
        ),
        sa.CheckConstraint(
            "ended_at > started_at", name=op.f("ck_simulated_events_ends_after_start")
        ),
        sa.CheckConstraint(
            "window_seconds > 0", name=op.f("ck_simulated_events_window_seconds_positive")
        ),
        comment="Events that the simulation made on purpose: the truth to score alarms against",
    )
    op.create_index(
        "ix_simulated_events_window_starts",
        "simulated_events",
        ["window_starts"],
        postgresql_using="gist",
    )
    # BETWEEN is for the index of deliveries. The range knows which of its bounds it contains.
    op.execute(
        """
        CREATE VIEW window_events AS
        SELECT e.event_id, e.llm_name, d."timestamp", e.kind, e.started_at, e.ended_at, e.size,
            e.metrics
        FROM simulated_events AS e
        JOIN deliveries AS d ON d.llm_name = e.llm_name
            AND d."timestamp" BETWEEN lower(e.window_starts) AND upper(e.window_starts)
            AND d."timestamp" <@ e.window_starts
        """
    )
    op.execute(
        "COMMENT ON VIEW window_events IS"
        " 'Which stored windows each simulated event overlaps: one row for each pair'"
    )


def downgrade() -> None:
    op.execute("DROP VIEW window_events")
    op.drop_table("simulated_events")
