"""The number of completed and failed requests of each window."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_counts",
        sa.Column("llm_name", sa.String(50), nullable=False, comment="The model"),
        sa.Column(
            "timestamp",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Start of the window, UTC",
        ),
        sa.Column("completed", sa.BigInteger(), nullable=False, comment="Requests that completed"),
        sa.Column(
            "rate_limited",
            sa.BigInteger(),
            nullable=False,
            comment="Requests that failed because their client sent too many",
        ),
        sa.Column(
            "overloaded",
            sa.BigInteger(),
            nullable=False,
            comment="Requests that failed because the endpoint had too few machines left",
        ),
        sa.Column(
            "timeout",
            sa.BigInteger(),
            nullable=False,
            comment="Requests that failed because no answer came in time",
        ),
        sa.PrimaryKeyConstraint("llm_name", "timestamp", name=op.f("pk_request_counts")),
        sa.CheckConstraint(
            "least(completed, rate_limited, overloaded, timeout) >= 0",
            name=op.f("ck_request_counts_counts_not_negative"),
        ),
        comment="How many requests of a window completed and failed: one row a model and window",
    )


def downgrade() -> None:
    op.drop_table("request_counts")
