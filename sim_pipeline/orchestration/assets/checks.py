"""The blocking checks of `metric_frames`. If one fails, the run publishes nothing."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.markdown import literal
from sim_pipeline.orchestration.resources import ResultsDatabase, RunScope
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.store.validation import ValidationResult, incomplete_windows, inconsistent_windows


def build_frame_checks(metric_frames: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the checks; both run in one step."""
    complete = dg.AssetCheckSpec(
        "windows_complete",
        asset=metric_frames,
        blocking=True,
        description="Every window of the run is stored with its four rows",
    )
    consistent = dg.AssetCheckSpec(
        "values_consistent",
        asset=metric_frames,
        blocking=True,
        description=(
            "Every value is finite and in range, and 1 + (e2e_latency - TTFT) * TPS"
            " is a whole number of tokens, at least 2"
        ),
    )

    @dg.multi_asset_check(specs=[complete, consistent])
    def frame_checks(
        context: dg.AssetCheckExecutionContext,
        simulation: dg.ResourceParam[SimulationInputs],
        scope: RunScope,
        results: dg.ResourceParam[ResultsDatabase],
    ) -> Iterator[dg.AssetCheckResult]:
        selection = scope.selection(context.partition_keys, simulation.cadence)
        interval = timedelta(seconds=simulation.cadence.interval)
        with (
            retry_transient_errors(results.postgres, context.retry_number),
            results.postgres.engine.connect() as connection,
        ):
            incomplete = incomplete_windows(
                connection, selection.llm_names, selection.windows, interval
            )
            inconsistent = inconsistent_windows(connection, selection.span)
        # Yielded, not returned: Dagster treats a returned tuple as outputs, which block nothing.
        yield _result(complete, incomplete)
        yield _result(consistent, inconsistent)

    return frame_checks


def _result(spec: dg.AssetCheckSpec, result: ValidationResult) -> dg.AssetCheckResult:
    first = "; ".join(map(literal, result.examples))
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=result.windows == 0,
        description=(
            f"{result.windows} windows fail, the first of them: {first}."
            " This run publishes nothing. Materialize these windows with `force` to rewrite them."
            if result.windows
            else None
        ),
        metadata={"failed windows": result.windows},
    )
