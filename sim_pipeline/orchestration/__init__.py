"""The Dagster graph: resources, partitions, assets, jobs. The work is done in other packages."""
