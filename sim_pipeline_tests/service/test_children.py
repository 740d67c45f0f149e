"""The output of the service's processes and its log levels."""

import io
import logging
import os
import threading
from pathlib import Path

import pytest

from sim_pipeline.local_servers.ports import listens
from sim_pipeline.service.children import Children, _relay
from sim_pipeline.stop_request import StopRequest
from sim_pipeline_tests.support.ports import free_port


def relayed(caplog: pytest.LogCaptureFixture, text: str) -> list[tuple[str, str, bool]]:
    """Return level, text and `console_only` of each line that is logged at INFO or above."""
    caplog.set_level(logging.INFO, "sim_pipeline.service.children")
    _relay("code", io.StringIO(text))
    return [
        (record.levelname, record.getMessage().split(maxsplit=1)[1], record.console_only)  # type: ignore[attr-defined]
        for record in caplog.records
    ]


def test_run_lines_keep_their_level_for_the_console(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert relayed(
        caplog,
        "2026-11-24 12:00:00 +0000 - dagster - DEBUG - simulation - STEP_START\n"
        "2026-11-24 12:00:01 +0000 - dagster - ERROR - simulation - STEP_FAILURE\n"
        "more of it\n",
    ) == [("ERROR", "simulation - STEP_FAILURE", True), ("ERROR", "more of it", True)]


@pytest.mark.parametrize(
    "beginning", ["Exception in thread grpc-server-cleanup:", "Traceback (most recent call last):"]
)
def test_unhandled_exception_is_logged_as_an_error(
    caplog: pytest.LogCaptureFixture, beginning: str
) -> None:
    assert relayed(
        caplog,
        "2026-11-24 12:00:00 +0000 - dagster - DEBUG - simulation - STEP_START\n"
        f"{beginning}\n"
        "  File one\n",
    ) == [("ERROR", beginning, False), ("ERROR", "File one", False)]


def test_daemon_housekeeping_is_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    head = "2026-11-24 12:00:00 +0000 - dagster.daemon."
    assert relayed(
        caplog,
        f"{head}EventLogConsumerDaemon - WARNING - No cursor for event type "
        "DagsterEventType.RUN_FAILURE, ignoring older events\n"
        f"{head}QueuedRunCoordinatorDaemon - INFO - Priority sorting and checking tag concurrency"
        " limits for queued runs.\n"
        f"{head}QueuedRunCoordinatorDaemon - INFO - Launched 1 runs.\n"
        f"{head}MonitoringDaemon - INFO - Collected 1 runs for monitoring\n"
        f"{head}SchedulerDaemon - WARNING - simulation_schedule has no partition set, so not trying"
        " to catch up\n",
    ) == [("INFO", "Launched 1 runs.", False)]


def test_backfill_details_are_hidden_but_not_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    head = "2026-11-24 12:00:00 +0000 - dagster.daemon.BackfillDaemon - "
    assert relayed(
        caplog,
        f"{head}INFO - Asset partitions to request:\n"
        "- metric_frames: {2026-11-18|GPT-4o, 2026-11-18|GPT-4o-mini}\n"
        f"{head}INFO - Submitted run 1aad for assets/checks benchmark_feed\n"
        f"{head}INFO - Overall backfill status:\n"
        "**Materialized assets:**\n"
        f"{head}ERROR - Backfill failed\n",
    ) == [
        ("INFO", "Submitted run 1aad for assets/checks benchmark_feed", False),
        ("ERROR", "Backfill failed", False),
    ]


class _NoStopRequest(StopRequest):
    """A stop request that leaves the signals of the tests alone."""

    def __init__(self) -> None:
        self._event = threading.Event()


def test_module_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    port = str(free_port())
    with Children(tmp_path, os.environ, _NoStopRequest()) as children:
        assert not children.run("slow", "http.server", "--bind", "127.0.0.1", port, timeout=0.1)
        assert not listens("127.0.0.1", int(port))
        assert children.run("quick", "calendar", "2026", timeout=60)
