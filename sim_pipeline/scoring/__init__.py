"""Scores the alarms of a detector against the simulated events. Does not import Dagster."""
