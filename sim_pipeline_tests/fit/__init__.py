"""Tests of `sim_pipeline.fit`. `samples` has a small file of each tool and variant."""
