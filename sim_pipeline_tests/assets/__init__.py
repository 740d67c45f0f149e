"""Tests of sim_pipeline.assets."""
