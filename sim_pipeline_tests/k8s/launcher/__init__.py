"""Mirrors what `k8s/base/dagster.yaml` sets for runs, and the launcher that reads it."""
