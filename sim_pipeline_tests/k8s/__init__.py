"""Tests of the manifests in k8s/, of the make targets for them, and of the run launcher."""
