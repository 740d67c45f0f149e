"""The tables as SQLAlchemy knows them; Alembic's migrations are held to this module.

The view `metric_summary` stands in the migrations only: nothing in the pipeline reads it.
"""

from sqlalchemy import (
    DOUBLE_PRECISION,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from sim_pipeline.metrics import METRICS

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
    Column("id", Integer, primary_key=True),
    Column("llm_name", String(50), nullable=False),
    Column("metric", String(20), nullable=False),
    Column("values", ARRAY(DOUBLE_PRECISION), nullable=False),
    Column("timestamp", DateTime(timezone=True), nullable=False),
    UniqueConstraint("llm_name", "metric", "timestamp"),
    CheckConstraint(
        f"metric IN ({', '.join(repr(metric) for metric in METRICS)})",
        name="metric_known",
    ),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("llm_name", String(50), primary_key=True),
    Column("timestamp", DateTime(timezone=True), primary_key=True),
    Column("message_id", UUID(as_uuid=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("published_at", DateTime(timezone=True)),
)
# What is pending is a handful among millions: the feed and the schedule find it through this.
Index(
    "ix_deliveries_pending",
    deliveries.c.timestamp,
    deliveries.c.llm_name,
    postgresql_where=deliveries.c.published_at.is_(None),
)
