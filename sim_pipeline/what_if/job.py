"""The job `what_if`, which compares the same windows simulated from current and from other inputs.

It reads only its form, the settings and a profiles file. It writes only the metadata of its run: no
rows, no ledger entries, no messages, no materializations.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from sim_pipeline.comparison.charts import changes_plot
from sim_pipeline.dagster_instance.names import (
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
)
from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline.simulator.profiles_file import ProfilesFileError
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.what_if.form import Scenario, WhatIf, WhatIfError, read_form
from sim_pipeline.what_if.report import inputs_table, largest_change, metric_table, slo_table
from sim_pipeline.what_if.simulate import Outcome, simulate_scenario

WHAT_IF_JOB = "what_if"
OP_NAME = "simulate_what_if"


def build_what_if_job(llm_names: Sequence[str], *, seed: int, points: int) -> dg.JobDefinition:
    """Return the job. It runs in one process.

    Args:
        llm_names: all models.
        seed: the current seed, prefilled in the launch form.
        points: the current number of points, prefilled in the launch form.
    """

    @dg.op(
        name=OP_NAME,
        description="Simulate the same windows from current and from other inputs, and compare",
    )
    def simulate_what_if(
        context: dg.OpExecutionContext,
        config: WhatIf,
        simulation: dg.ResourceParam[SimulationInputs],
    ) -> None:
        try:
            scenario = read_form(config, simulation, llm_names, datetime.now(UTC))
        except (WhatIfError, ProfilesFileError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        outcome = simulate_scenario(scenario)
        context.log.info("Largest change: %s", largest_change(scenario, outcome))
        context.add_output_metadata(_metadata(scenario, outcome))

    @dg.job(
        name=WHAT_IF_JOB,
        executor_def=dg.in_process_executor,
        description=(
            "Shows the effect of another seed, number of points or set of model profiles: simulates"
            " the same windows from current and from these inputs, and compares p50, p95 and SLO"
            " attainment. Writes only its run's metadata"
        ),
        # Takes minutes at most, and a user watches it: a retry would not help.
        tags={PRIORITY_TAG: "-1", MAX_RUNTIME_SECONDS_TAG: "3600", MAX_RETRIES_TAG: "0"},
        # The launchpad shows only the form, not the resources.
        config={
            "ops": {
                OP_NAME: {
                    "config": {
                        "seed": seed,
                        "points": points,
                        "profiles": {},
                        "profiles_file": "",
                        "models": list(llm_names),
                        "since": "",
                        "until": "",
                    }
                }
            }
        },
    )
    def what_if() -> None:
        simulate_what_if()

    return what_if


def _metadata(scenario: Scenario, outcome: Outcome) -> dict[str, dg.MetadataValue]:
    cadence, windows = scenario.cadence, scenario.windows
    plot = changes_plot(
        scenario.llm_names, outcome.baseline.percentiles, outcome.candidate.percentiles
    )
    return {
        # The run's log shows only the first few entries.
        "largest change": dg.MetadataValue.text(largest_change(scenario, outcome)),
        "plot": dg.MetadataValue.md(plot),
        **{
            f"{metric} [{UNITS[metric]}]": dg.MetadataValue.md(
                metric_table(scenario, outcome, metric)
            )
            for metric in METRICS
        },
        "SLO attainment, goodput [requests/s]": dg.MetadataValue.md(slo_table(scenario, outcome)),
        "inputs": dg.MetadataValue.md(inputs_table(scenario, outcome)),
        "since": dg.MetadataValue.text(format_timestamp(cadence.start_of(windows.start))),
        "until": dg.MetadataValue.text(format_timestamp(cadence.start_of(windows.stop))),
        "windows per model": dg.MetadataValue.int(len(windows)),
    }
