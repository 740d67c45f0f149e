"""Tests of the what-if: its form, what it simulates, and what a run of its job leaves behind."""
