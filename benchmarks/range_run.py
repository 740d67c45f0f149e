"""One run over a range of partitions, in a process of its own, as a run worker executes it."""

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
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.orchestration.partitions import range_tags

_TAIL_BYTES = 4_000


@dataclass(frozen=True)
class RangeRun:
    """What a run took.

    Attributes:
        seconds: of its execution, without the start of the process and the creation of the run.
        memory: largest resident memory of the process, MiB.
    """

    seconds: float
    memory: float


def range_run(
    llm_names: Sequence[str],
    first_day: date,
    last_day: date,
    environment: Mapping[str, str] | None = None,
) -> RangeRun:
    """Run the job over a rectangle of partitions, in the storage that the environment names.

    Args:
        llm_names: the models, as LLM_MODELS_STR lists them, none in between left out.
        first_day: first day of the range.
        last_day: last day of the range, included.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: the run failed; the message has the end of what it said.
    """
    arguments = [llm_names[0], llm_names[-1], first_day.isoformat(), last_day.isoformat()]
    # In a file: a run says a line or more for each of its partitions.
    with tempfile.TemporaryFile() as said:
        completed = subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-m", __name__, *arguments],
            cwd=os.environ["DAGSTER_HOME"],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=said,
            check=False,
            text=True,
        )
        if completed.returncode:
            said.seek(max(0, said.tell() - _TAIL_BYTES))
            tail = said.read().decode(errors="replace")
            raise RuntimeError(f"a run of {', '.join(arguments)} failed:\n{tail}")
    return RangeRun(**json.loads(completed.stdout.splitlines()[-1]))


def main(first_model: str, last_model: str, first_day: str, last_day: str) -> None:
    """Run, and print what it took as JSON.

    Raises:
        RuntimeError: the run failed.
    """
    # Reads the settings as it is imported, which this module's other side must not.
    from sim_pipeline.definitions import defs  # noqa: PLC0415

    job = defs.resolve_job_def(SIMULATION_JOB)
    tags = range_tags(
        (first_model, last_model), date.fromisoformat(first_day), date.fromisoformat(last_day)
    )
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(job, tags=tags)
        start = time.perf_counter()
        # As a run worker does: none of the events is kept.
        for _ in execute_run_iterator(InMemoryJob(job), run, instance):
            pass
        seconds = time.perf_counter() - start
        ended = instance.get_run_by_id(run.run_id)
    if ended is None or not ended.is_success:
        raise RuntimeError(f"run {run.run_id} over {tags} did not succeed")
    print(json.dumps({"seconds": seconds, "memory": peak_memory()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
