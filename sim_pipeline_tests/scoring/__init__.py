"""Tests of `sim_pipeline.scoring`."""
