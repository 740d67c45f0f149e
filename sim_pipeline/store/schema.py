"""The tables, for SQLAlchemy. A test compares them with the migrations.

The views are in the migrations only: the pipeline reads no view but `slo_attainment`, by its name.
"""

from sqlalchemy import (
    DOUBLE_PRECISION,
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSTZRANGE, UUID

from sim_pipeline.metrics import EVENT_KINDS, FAILURE_KINDS, MAX_MODEL_NAME_LENGTH, METRICS

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

simulation_results = Table(
    "simulation_results",
    metadata,
    Column("id", Integer, primary_key=True, comment="Number of the row"),
    Column("llm_name", String(MAX_MODEL_NAME_LENGTH), nullable=False, comment="The model"),
    Column("metric", String(20), nullable=False, comment="TTFT, TPS, e2e_latency or RPS"),
    Column(
        "values",
        ARRAY(DOUBLE_PRECISION),
        nullable=False,
        comment="One a data point: seconds (TTFT, e2e_latency), tokens/s (TPS) or requests/s (RPS)",
    ),
    Column(
        "timestamp", DateTime(timezone=True), nullable=False, comment="Start of the window, UTC"
    ),
    UniqueConstraint("llm_name", "metric", "timestamp"),
    CheckConstraint(
        f"metric IN ({', '.join(repr(metric) for metric in METRICS)})",
        name="metric_known",
    ),
)

COUNTS = ("completed", *FAILURE_KINDS)
"""The columns of `request_counts` that hold counts: a window's requests by outcome."""

request_counts = Table(
    "request_counts",
    metadata,
    Column("llm_name", String(MAX_MODEL_NAME_LENGTH), primary_key=True, comment="The model"),
    Column(
        "timestamp", DateTime(timezone=True), primary_key=True, comment="Start of the window, UTC"
    ),
    Column("completed", BigInteger, nullable=False, comment="Requests that completed"),
    Column(
        "rate_limited",
        BigInteger,
        nullable=False,
        comment="Requests that failed because their client sent too many",
    ),
    Column(
        "overloaded",
        BigInteger,
        nullable=False,
        comment="Requests that failed because the endpoint had too few machines left",
    ),
    Column(
        "timeout",
        BigInteger,
        nullable=False,
        comment="Requests that failed because no answer came in time",
    ),
    CheckConstraint(f"least({', '.join(COUNTS)}) >= 0", name="counts_not_negative"),
    comment="How many requests of a window completed and failed: one row a model and window",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("llm_name", String(MAX_MODEL_NAME_LENGTH), primary_key=True, comment="The model"),
    Column(
        "timestamp", DateTime(timezone=True), primary_key=True, comment="Start of the window, UTC"
    ),
    Column(
        "message_id",
        UUID(as_uuid=True),
        nullable=False,
        comment="Of the window's message: made from model, window and the inputs",
    ),
    Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="When the window was stored under this message_id",
    ),
    Column(
        "published_at",
        DateTime(timezone=True),
        comment="When the broker confirmed the message; null: it is still to be sent",
    ),
)
# A few entries among millions are pending: the feed and the schedule find them through this index.
Index(
    "ix_deliveries_pending",
    deliveries.c.timestamp,
    deliveries.c.llm_name,
    postgresql_where=deliveries.c.published_at.is_(None),
)

simulated_events = Table(
    "simulated_events",
    metadata,
    Column(
        "event_id",
        UUID(as_uuid=True),
        primary_key=True,
        comment="Made from model, kind, start, end, size and metrics",
    ),
    Column("llm_name", String(MAX_MODEL_NAME_LENGTH), nullable=False, comment="The model"),
    Column(
        "kind",
        String(20),
        nullable=False,
        comment="incident, level_shift, capacity, burst, failure_spell, release or retirement",
    ),
    Column("started_at", DateTime(timezone=True), nullable=False, comment="Its first instant"),
    Column(
        "ended_at",
        DateTime(timezone=True),
        comment="The first instant after it; null: what started lasts for good",
    ),
    Column(
        "size",
        DOUBLE_PRECISION,
        nullable=False,
        comment="A factor or a share, depending on the kind",
    ),
    Column("metrics", ARRAY(String(20)), nullable=False, comment="Those that the event moves"),
    Column(
        "window_seconds",
        Integer,
        nullable=False,
        comment="Length of the windows that the event was written with",
    ),
    # A window overlaps an event if its start is in this range. PostgreSQL can only store what does
    # not depend on the session's time zone, so the subtraction is of times without one.
    Column(
        "window_starts",
        TSTZRANGE,
        Computed(
            "tstzrange((started_at AT TIME ZONE 'UTC' - make_interval(secs => window_seconds))"
            " AT TIME ZONE 'UTC', coalesce(ended_at, started_at),"
            " CASE WHEN ended_at IS NULL THEN '(]' ELSE '()' END)",
            persisted=True,
        ),
        comment="Starts of the windows that overlap it; without an end, its start counts",
    ),
    CheckConstraint(
        f"kind IN ({', '.join(repr(kind) for kind in EVENT_KINDS)})", name="kind_known"
    ),
    CheckConstraint("ended_at > started_at", name="ends_after_start"),
    CheckConstraint("window_seconds > 0", name="window_seconds_positive"),
    comment="Events that the simulation made on purpose: the truth to score alarms against",
)
Index(
    "ix_simulated_events_window_starts",
    simulated_events.c.window_starts,
    postgresql_using="gist",
)

model_comparison = Table(
    "model_comparison",
    metadata,
    Column(
        "compared_at",
        DateTime(timezone=True),
        primary_key=True,
        comment="End of the latest window that was compared, UTC; each period ends then",
    ),
    Column("hours", Integer, primary_key=True, comment="Length of the period: 24 or 168"),
    Column("metric", String(20), primary_key=True, comment="TTFT, TPS, e2e_latency or RPS"),
    Column("llm_name", String(MAX_MODEL_NAME_LENGTH), primary_key=True, comment="The model"),
    Column(
        "rank",
        Integer,
        nullable=False,
        comment=(
            "1 more than the number of models whose p50 interval lies wholly on the better side:"
            " lower TTFT and e2e_latency, higher TPS and RPS"
        ),
    ),
    Column("points", BigInteger, nullable=False, comment="How many values were compared"),
    Column(
        "p50",
        DOUBLE_PRECISION,
        nullable=False,
        comment="Median of the values: seconds, tokens/s or requests/s by metric",
    ),
    Column("p95", DOUBLE_PRECISION, nullable=False, comment="Their 95th percentile"),
    Column(
        "trend",
        DOUBLE_PRECISION,
        comment="p50 over that of the same period a day earlier, less 1; null: nothing then",
    ),
    Column(
        "p50_low",
        DOUBLE_PRECISION,
        comment="Lower end of the 95 % interval of p50; null: too few values",
    ),
    Column("p50_high", DOUBLE_PRECISION, comment="Its upper end"),
    Column(
        "p95_low",
        DOUBLE_PRECISION,
        comment="Lower end of the 95 % interval of p95; null: too few values",
    ),
    Column("p95_high", DOUBLE_PRECISION, comment="Its upper end"),
    comment="How the models compare, by period and metric: one ranking each comparison",
)

slos = Table(
    "slos",
    metadata,
    Column("llm_name", String(MAX_MODEL_NAME_LENGTH), primary_key=True, comment="The model"),
    Column("workload", Text, nullable=False, comment="The class of workload that it serves"),
    Column("ttft", DOUBLE_PRECISION, comment="Highest TTFT in seconds; null: no limit"),
    Column("itl", DOUBLE_PRECISION, comment="Highest 1 / TPS in seconds; null: no limit"),
    Column("e2e", DOUBLE_PRECISION, comment="Highest e2e_latency in seconds; null: no limit"),
    comment="Current service level objectives: the limits of a model's requests",
)
