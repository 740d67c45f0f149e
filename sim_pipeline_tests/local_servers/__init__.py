"""Tests of `sim_pipeline.local_servers`."""
