"""`make backfill`: runs a backfill in the running service and shows its progress and result."""
