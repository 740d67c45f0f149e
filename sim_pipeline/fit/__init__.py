"""Fits a model's profile to what benchmark tools measured. Does not import Dagster."""
