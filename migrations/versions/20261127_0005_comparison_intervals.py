"""Intervals of the compared percentiles."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RANK_BEFORE = "By p50, 1 the best: lowest TTFT and e2e_latency, highest TPS and RPS"
RANK = (
    "1 more than the number of models whose p50 interval lies wholly on the better side: lower TTFT"
    " and e2e_latency, higher TPS and RPS"
)
COLUMNS = {
    "p50_low": "Lower end of the 95 % interval of p50; null: too few values",
    "p50_high": "Its upper end",
    "p95_low": "Lower end of the 95 % interval of p95; null: too few values",
    "p95_high": "Its upper end",
}


def upgrade() -> None:
    for name, comment in COLUMNS.items():
        op.add_column("model_comparison", sa.Column(name, sa.DOUBLE_PRECISION(), comment=comment))
    op.alter_column("model_comparison", "rank", comment=RANK)


def downgrade() -> None:
    op.alter_column("model_comparison", "rank", comment=RANK_BEFORE)
    for name in COLUMNS:
        op.drop_column("model_comparison", name)
