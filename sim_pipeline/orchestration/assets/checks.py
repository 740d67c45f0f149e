"""The checks between store and feed: what they don't let through is never published."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.markdown import literal
from sim_pipeline.orchestration.resources import ResultsDatabase, RunScope
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.store.validation import ValidationResult, incomplete_windows, inconsistent_windows


def build_frame_checks(metric_frames: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the blocking checks of `metric_frames`, all in one step."""
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
            " is a whole number of tokens, from 2 on"
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
        # Yielded, not returned: of results in a tuple Dagster makes outputs, which block nothing.
        yield _result(complete, incomplete)
        yield _result(consistent, inconsistent)

    return frame_checks


def _result(spec: dg.AssetCheckSpec, finding: ValidationResult) -> dg.AssetCheckResult:
    first = "; ".join(map(literal, finding.examples))
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=finding.windows == 0,
        description=(
            f"{finding.windows} windows fail, the first of them: {first}."
            " Nothing of this run is published. Materialize them with `force` to write them anew."
            if finding.windows
            else None
        ),
        metadata={"windows that fail": finding.windows},
    )
