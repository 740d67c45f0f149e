"""The file formats of the benchmark tools, one module each. `reading` finds the one that fits."""
