"""The comparison of the models: ranking, regressions, charts. Does not import Dagster."""
