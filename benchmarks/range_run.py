"""Executes one run over a range of partitions in a separate process, as a run worker does."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator

from benchmarks.workers import peak_memory
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB

_TAIL_BYTES = 4_000


@dataclass(frozen=True)
class RangeRun:
    """The measurements of a run.

    Attributes:
        seconds: execution time, without the start of the process and the creation of the run.
        memory: peak resident memory of the process, in MiB.
    """

    seconds: float
    memory: float


def range_run(
    llm_names: Sequence[str],
    first_day: date,
    last_day: date,
    environment: Mapping[str, str] | None = None,
) -> RangeRun:
    """Run the job over models and days, with the storage that the environment names.

    Args:
        llm_names: consecutive models of LLM_MODELS_STR.
        first_day: first day of the range.
        last_day: last day of the range, inclusive.
        environment: variables in addition to those of this process.

    Raises:
        RuntimeError: the run failed; the message has the end of its output.
    """
    arguments = [llm_names[0], llm_names[-1], first_day.isoformat(), last_day.isoformat()]
    # To a file, because a run logs at least one line for each partition.
    with tempfile.TemporaryFile() as log:
        completed = subprocess.run(  # noqa: S603 - this module
            [sys.executable, "-m", __name__, *arguments],
            cwd=os.environ["DAGSTER_HOME"],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
            text=True,
        )
        if completed.returncode:
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            tail = log.read().decode(errors="replace")
            raise RuntimeError(f"a run of {', '.join(arguments)} failed:\n{tail}")
    return RangeRun(**json.loads(completed.stdout.splitlines()[-1]))


def main(first_model: str, last_model: str, first_day: str, last_day: str) -> None:
    """Execute the run, and print its measurements as JSON.

    Raises:
        RuntimeError: the run failed.
    """
    # Imported here, because it reads the settings on import; `range_run` must not do that.
    from sim_pipeline.definitions import defs  # noqa: PLC0415

    job = defs.resolve_job_def(SIMULATION_JOB)
    tags = range_tags(
        (first_model, last_model), date.fromisoformat(first_day), date.fromisoformat(last_day)
    )
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(job, tags=tags)
        start = time.perf_counter()
        # Discards the events, as a run worker does.
        for _ in execute_run_iterator(InMemoryJob(job), run, instance):
            pass
        seconds = time.perf_counter() - start
        ended = instance.get_run_by_id(run.run_id)
    if ended is None or not ended.is_success:
        raise RuntimeError(f"run {run.run_id} over {tags} did not succeed")
    print(json.dumps({"seconds": seconds, "memory": peak_memory()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
