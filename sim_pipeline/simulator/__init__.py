"""The model of an LLM endpoint under load.

NumPy only: what stands here knows no Dagster, no database, no broker, no clock, no file and no
environment variable. It maps (profile, windows, seed) to numbers, always the same ones.
"""
