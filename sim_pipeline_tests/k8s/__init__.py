"""Tests of the manifests under k8s/, of the image and of the launcher."""
