"""Tests of the Dockerfile and of the image."""
