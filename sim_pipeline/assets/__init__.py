"""The graph: Dagster assets and checks, each a thin shell over simulator, store and broker."""
