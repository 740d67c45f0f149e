"""The runs that a stopped service left in progress."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import MAX_RETRIES_TAG, WILL_RETRY_TAG

from sim_pipeline.dagster_instance.lifecycle import close_abandoned_runs

INSTANCE = """
run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}
"""


def test_runs_in_progress_fail_and_are_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without retries fails for good; a canceling run is canceled; other runs stay."""
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    @dg.job
    def empty() -> None:
        pass

    with dg.DagsterInstance.get() as instance:

        def create(status: dg.DagsterRunStatus, tags: dict[str, str] | None = None) -> str:
            return instance.create_run_for_job(empty, status=status, tags=tags).run_id

        manual = create(dg.DagsterRunStatus.STARTED)
        scheduled = create(dg.DagsterRunStatus.STARTED, {MAX_RETRIES_TAG: "0"})
        canceling = create(dg.DagsterRunStatus.CANCELING)
        created = create(dg.DagsterRunStatus.NOT_STARTED)
        done = create(dg.DagsterRunStatus.SUCCESS)
        close_abandoned_runs()
        found = {run.run_id: run for run in instance.get_runs()}

    assert {
        run_id: (run.status.value, run.tags.get(WILL_RETRY_TAG)) for run_id, run in found.items()
    } == {
        manual: ("FAILURE", "true"),
        scheduled: ("FAILURE", "false"),
        canceling: ("CANCELED", None),
        created: ("NOT_STARTED", None),
        done: ("SUCCESS", None),
    }
