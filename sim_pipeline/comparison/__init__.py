"""The comparison of the models: ranking, regressions, charts."""
