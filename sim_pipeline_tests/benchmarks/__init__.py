"""Tests of sim_pipeline."""
