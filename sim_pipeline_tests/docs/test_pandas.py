"""The examples of docs/pandas.md."""

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.definitions import build_defs
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB

PAGE = (Path(__file__).parents[2] / "docs" / "pandas.md").read_text(encoding="utf-8")
NOTEBOOK, ASSET = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(COMMAND,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _stored(settings: Settings, ephemeral: dg.DagsterInstance) -> None:
    """Two days of all models, in the database that the environment names."""
    build_defs(settings).resolve_job_def(SIMULATION_JOB).execute_in_process(
        instance=ephemeral,
        tags=range_tags(settings.llm_models, date(2026, 11, 20), date(2026, 11, 21)),
    )


def run(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_notebook_example(tmp_path: Path) -> None:
    printed = run(tmp_path, "-c", NOTEBOOK + "\nprint(len(frame))")
    assert all(metric in printed for metric in METRICS)
    assert printed.splitlines()[-1] == str(2 * 24 * len(METRICS))


def test_downstream_asset_example(tmp_path: Path) -> None:
    (tmp_path / "my_feed.py").write_text(ASSET, encoding="utf-8")
    (arguments,) = re.findall(r"dagster (asset materialize .*)", COMMAND)
    run(tmp_path, "-m", "dagster", *arguments.replace("'", "").split())
    frame = pd.read_csv(tmp_path / "window_p95.csv")
    assert list(frame["llm_name"].unique()) == ["GPT-4o"]
    assert len(frame) == 24
    assert set(METRICS) < set(frame.columns)
