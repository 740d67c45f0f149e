"""Tests of `sim_pipeline.dagster_instance`."""
