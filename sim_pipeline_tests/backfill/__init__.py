"""Tests of `sim_pipeline.backfill`."""
