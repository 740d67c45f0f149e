"""Tests of the project's files: the Makefile and the wheel."""
