"""What becomes of the runs that a stopped service left behind."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import MAX_RETRIES_TAG, WILL_RETRY_TAG

from sim_pipeline.dagster_instance.lifecycle import close_abandoned_runs

INSTANCE = """
run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}
"""


def test_runs_under_way_fail_and_are_launched_anew_but_not_what_is_done_for_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    @dg.job
    def empty() -> None:
        pass

    with dg.DagsterInstance.get() as instance:

        def run(status: dg.DagsterRunStatus, tags: dict[str, str] | None = None) -> str:
            return instance.create_run_for_job(empty, status=status, tags=tags).run_id

        by_hand = run(dg.DagsterRunStatus.STARTED)
        scheduled = run(dg.DagsterRunStatus.STARTED, {MAX_RETRIES_TAG: "0"})
        canceling = run(dg.DagsterRunStatus.CANCELING)
        created = run(dg.DagsterRunStatus.NOT_STARTED)
        done = run(dg.DagsterRunStatus.SUCCESS)
        close_abandoned_runs()
        found = {run.run_id: run for run in instance.get_runs()}

    assert {
        one: (found[one].status.value, found[one].tags.get(WILL_RETRY_TAG)) for one in found
    } == {
        by_hand: ("FAILURE", "true"),
        scheduled: ("FAILURE", "false"),
        canceling: ("CANCELED", None),
        created: ("NOT_STARTED", None),
        done: ("SUCCESS", None),
    }
