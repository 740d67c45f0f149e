"""Tests of `sim_pipeline.comparison`."""
