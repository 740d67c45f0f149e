"""`make run` on one machine: starts the servers and Dagster, watches them, stops them."""
