"""The history of model comparisons, and a comment on each column."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COMMENTS = {
    "simulation_results": {
        "id": "Number of the row",
        "llm_name": "The model",
        "metric": "TTFT, TPS, e2e_latency or RPS",
        "values": (
            "One a data point: seconds (TTFT, e2e_latency), tokens/s (TPS) or requests/s (RPS)"
        ),
        "timestamp": "Start of the window, UTC",
    },
    "deliveries": {
        "llm_name": "The model",
        "timestamp": "Start of the window, UTC",
        "message_id": "Of the window's message: made from model, window and the inputs",
        "created_at": "When the window was stored under this message_id",
        "published_at": "When the broker confirmed the message; null: it is still to be sent",
    },
}


def upgrade() -> None:
    for table, columns in COMMENTS.items():
        for column, comment in columns.items():
            op.alter_column(table, column, comment=comment)
    op.create_table(
        "model_comparison",
        sa.Column(
            "compared_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="End of the latest window that was compared, UTC; each period ends then",
        ),
        sa.Column("hours", sa.Integer(), nullable=False, comment="Length of the period: 24 or 168"),
        sa.Column("metric", sa.String(20), nullable=False, comment="TTFT, TPS, e2e_latency or RPS"),
        sa.Column("llm_name", sa.String(50), nullable=False, comment="The model"),
        sa.Column(
            "rank",
            sa.Integer(),
            nullable=False,
            comment="By p50, 1 the best: lowest TTFT and e2e_latency, highest TPS and RPS",
        ),
        sa.Column(
            "points", sa.BigInteger(), nullable=False, comment="How many values were compared"
        ),
        sa.Column(
            "p50",
            sa.DOUBLE_PRECISION(),
            nullable=False,
            comment="Median of the values: seconds, tokens/s or requests/s by metric",
        ),
        sa.Column("p95", sa.DOUBLE_PRECISION(), nullable=False, comment="Their 95th percentile"),
        sa.Column(
            "trend",
            sa.DOUBLE_PRECISION(),
            comment="p50 over that of the same period a day earlier, less 1; null: nothing then",
        ),
        sa.PrimaryKeyConstraint(
            "compared_at", "hours", "metric", "llm_name", name=op.f("pk_model_comparison")
        ),
        comment="How the models compare, by period and metric: one ranking each comparison",
    )


def downgrade() -> None:
    op.drop_table("model_comparison")
    for table, columns in COMMENTS.items():
        for column in columns:
            op.alter_column(table, column, comment=None)
