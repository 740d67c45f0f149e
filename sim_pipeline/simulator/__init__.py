"""The model of an LLM endpoint under load: maps (profile, windows, seed) to reproducible numbers.

NumPy only: no Dagster, database, broker, clock or environment variable. Only `catalogue` and
`profiles_file` read a file. docs/simulator.md explains the model.

Callers use `simulation.simulate`, `fingerprint.fingerprints` and `catalogue.profile_for`. These,
and the dataclasses that they take, validate their arguments; the modules below them do not.
"""
