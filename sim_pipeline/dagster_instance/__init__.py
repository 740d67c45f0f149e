"""Adaptations of Dagster's instance: the only package that imports Dagster's private modules."""
