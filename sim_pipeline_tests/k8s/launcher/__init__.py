"""Tests of runs as Kubernetes Jobs: `k8s/base/dagster.yaml` and the run launcher."""
