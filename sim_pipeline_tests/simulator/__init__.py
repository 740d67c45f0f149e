"""Tests of sim_pipeline.simulator."""
