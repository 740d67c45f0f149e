"""Tests of `sim_pipeline.feed`."""
