"""The two use cases: simulate missing windows, publish pending ones. No Dagster."""
