"""Tests of `sim_pipeline.orchestration.jobs`."""
