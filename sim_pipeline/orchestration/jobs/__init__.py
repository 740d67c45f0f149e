"""The jobs, each with its schedule."""
