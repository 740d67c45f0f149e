"""PostgreSQL: the tables, the bulk write, the reads and the deliveries ledger. Knows no Dagster."""
