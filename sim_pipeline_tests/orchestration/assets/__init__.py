"""Tests of `sim_pipeline.orchestration.assets`."""
