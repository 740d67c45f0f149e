"""The service on one machine: its servers and Dagster's processes, started, watched, stopped."""
