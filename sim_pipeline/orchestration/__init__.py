"""The graph in Dagster: resources, partitions, assets, jobs. Thin: the work is done elsewhere."""
