"""Tests of `sim_pipeline.entrypoints`."""
