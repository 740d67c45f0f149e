"""Tests of the UI: a real browser against the whole service."""
