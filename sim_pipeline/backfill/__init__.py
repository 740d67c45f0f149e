"""`make backfill`: a backfill through the running service, with progress, a summary, a way back."""
