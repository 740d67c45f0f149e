"""The model of an LLM endpoint under load: maps (profile, windows, seed) to reproducible numbers.

NumPy only: no Dagster, database, broker, clock or environment variable. Only `profiles_file` reads
a file. docs/simulator.md explains the model.

Callers use `simulation.simulate`, `fingerprint.fingerprints` and `profiles.profile_for`. These, and
the dataclasses that they take, validate their arguments; the modules below them do not.
"""
