"""The model of an LLM endpoint under load.

NumPy only: what stands here knows no Dagster, no database, no broker, no clock, no file and no
environment variable. It maps (profile, windows, seed) to numbers, always the same ones.

Others call `simulation.simulate`, `fingerprint.fingerprints` and `profiles.profile_for`: these and
the dataclasses that they take check what they are given. The modules beneath trust each other.
"""
