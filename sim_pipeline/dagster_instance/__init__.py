"""Dagster's own machinery, adapted: the only package that imports its private modules."""
