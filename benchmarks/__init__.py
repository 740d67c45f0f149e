"""Benchmarks of the pipeline; README.md lists them and says how to run them."""
