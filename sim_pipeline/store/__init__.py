"""PostgreSQL: the tables, the writer, the deliveries ledger, checks, retention. No Dagster."""
