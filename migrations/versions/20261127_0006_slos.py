"""The service level objectives of the models, and a view of how windows keep them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "slos",
        sa.Column("llm_name", sa.String(50), nullable=False, comment="The model"),
        sa.Column(
            "workload", sa.Text(), nullable=False, comment="The class of workload that it serves"
        ),
        sa.Column("ttft", sa.DOUBLE_PRECISION(), comment="Highest TTFT in seconds; null: no limit"),
        sa.Column(
            "itl", sa.DOUBLE_PRECISION(), comment="Highest 1 / TPS in seconds; null: no limit"
        ),
        sa.Column(
            "e2e", sa.DOUBLE_PRECISION(), comment="Highest e2e_latency in seconds; null: no limit"
        ),
        sa.PrimaryKeyConstraint("llm_name", name=op.f("pk_slos")),
        comment="Current service level objectives: the limits of a model's requests",
    )
    # The other metrics of a window are looked up window by window, so that a condition on model and
    # time, or a join with either, reads only the windows that it selects.
    op.execute(
        """
        CREATE VIEW slo_attainment AS
        SELECT r.llm_name, r."timestamp", p.points, p.good,
            p.good::double precision / p.points AS attainment,
            p.rps * p.good / p.points AS goodput
        FROM slos AS s
        JOIN simulation_results AS r ON r.llm_name = s.llm_name AND r.metric = 'TTFT'
        CROSS JOIN LATERAL (
            SELECT count(*) AS points, avg(v.rps) AS rps,
                count(*) FILTER (
                    WHERE (s.ttft IS NULL OR v.ttft <= s.ttft)
                    AND (s.itl IS NULL OR 1 / nullif(v.tps, 0) <= s.itl)
                    AND (s.e2e IS NULL OR v.e2e <= s.e2e)
                ) AS good
            FROM (
                SELECT
                    max(o."values") FILTER (WHERE o.metric = 'TPS') AS tps,
                    max(o."values") FILTER (WHERE o.metric = 'e2e_latency') AS e2e,
                    max(o."values") FILTER (WHERE o.metric = 'RPS') AS rps
                FROM simulation_results AS o
                WHERE o.llm_name = r.llm_name AND o."timestamp" = r."timestamp"
                AND o.metric IN ('TPS', 'e2e_latency', 'RPS')
                HAVING count(*) = 3
            ) AS w
            CROSS JOIN unnest(r."values", w.tps, w.e2e, w.rps) AS v (ttft, tps, e2e, rps)
        ) AS p
        WHERE p.points > 0
        """
    )
    op.execute(
        """
        COMMENT ON VIEW slo_attainment IS
        'Share of a window''s data points within the current limits of slos, and RPS times it'
        """
    )


def downgrade() -> None:
    op.execute("DROP VIEW slo_attainment")
    op.drop_table("slos")
