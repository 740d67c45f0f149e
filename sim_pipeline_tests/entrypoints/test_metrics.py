"""The metrics for Prometheus, from real databases, and the server of them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._daemon.types import DaemonHeartbeat

from sim_pipeline.config import Settings
from sim_pipeline.entrypoints import metrics as module
from sim_pipeline.entrypoints.metrics import metrics, server
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.stored_windows import batch_of

MODEL = 'a "model" \\ name'


def names_of() -> set[str]:
    """Return the names of all metrics that the queries have."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    fixed = {
        "sim_pipeline_interval_seconds",
        "sim_pipeline_row_ids_left",
        "sim_pipeline_database_size_bytes",
    }
    return set(re.findall(r"AS (sim_pipeline_\w+)", text)) | fixed


@pytest.fixture
def both(settings: Settings, storage: Postgres) -> Settings:
    """Settings with a results database and Dagster's storage on the same server."""
    assert storage.host == settings.postgres_host
    changed = {"dagster_postgres_db": storage.database, "llm_models": (MODEL, "not stored")}
    return settings.model_copy(update=changed)


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_metrics_of_a_stored_window(
    both: Settings, postgres: Postgres, instance: dg.DagsterInstance
) -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    with BatchWriter(postgres) as writer:
        writer.write(batch_of([MODEL, "removed"], [start]))
    with postgres.engine.begin() as connection:
        connection.execute(sa.text("UPDATE deliveries SET created_at = now() - interval '2 hours'"))
    instance.create_run_for_job(_nothing, status=dg.DagsterRunStatus.STARTING)
    instance.report_run_failed(instance.create_run_for_job(_nothing))
    minutes_ago = time.time() - 600
    instance.add_daemon_heartbeat(DaemonHeartbeat(minutes_ago, "SCHEDULER", None, []))
    text = metrics(both)
    found = values(text)
    assert found["sim_pipeline_interval_seconds{}"] == 3600
    assert found["sim_pipeline_undelivered_windows{}"] == 1
    assert 7200 <= found["sim_pipeline_undelivered_age_seconds{}"] < 7800
    label = r'{llm_name="a \"model\" \\ name"}'
    age = found[f"sim_pipeline_latest_window_age_seconds{label}"]
    assert 5 * 3600 <= age < 6.5 * 3600
    assert text.count("sim_pipeline_latest_window_age_seconds{") == 1
    assert found["sim_pipeline_row_ids_left{}"] == 2**31 - 1 - 8
    assert found["sim_pipeline_failed_runs_last_hour{}"] == 1
    assert found['sim_pipeline_waiting_runs{status="STARTING"}'] == 1
    assert found['sim_pipeline_waiting_runs{status="QUEUED"}'] == 0
    assert found['sim_pipeline_waiting_run_age_seconds{status="QUEUED"}'] == 0
    assert 0 <= found['sim_pipeline_waiting_run_age_seconds{status="STARTING"}'] < 600
    assert 600 <= found['sim_pipeline_heartbeat_age_seconds{daemon="SCHEDULER"}'] < 1200
    assert found["sim_pipeline_postgres_connections{}"] >= 1
    assert found["sim_pipeline_postgres_connection_limit{}"] >= 10
    size = f'sim_pipeline_database_size_bytes{{database="{both.dagster_postgres_db}"}}'
    assert found[size] > 2**20
    # One heading for each metric.
    typed = re.findall(r"^# TYPE (\w+) gauge$", text, flags=re.MULTILINE)
    assert len(typed) == len(set(typed))
    assert set(typed) == names_of()


def test_all_queries_share_one_deadline(
    both: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert instance
    monkeypatch.setattr(module, "_SCRAPE_SECONDS", 600.0)
    statements = []

    def record(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    sa.event.listen(sa.Engine, "before_cursor_execute", record)
    try:
        metrics(both)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", record)
    queries = [text for text in statements if "SELECT" in text]
    limits = [
        int(text.rpartition(" ")[2]) for text in statements if "SET LOCAL statement_timeout" in text
    ]
    assert len(limits) >= len(queries) > 1
    assert limits == sorted(limits, reverse=True)
    assert 0 < limits[-1] < limits[0] <= 600_000


@dg.job
def _nothing() -> None:
    """Do nothing."""


@pytest.fixture
def url(both: Settings) -> Iterator[str]:
    with server(both, 0, "127.0.0.1") as served:
        thread = threading.Thread(target=served.serve_forever, args=[0.05])
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
        thread.join()


def test_server_answers_scrapes_and_probes(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"sim_pipeline_undelivered_windows{} 0.0\n" in answer.read()
    with urllib.request.urlopen(f"{url}/healthz", timeout=30) as answer:
        assert answer.read() == b"ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/", timeout=30)


def test_unreachable_database_fails_scrapes_only(both: Settings) -> None:
    wrong = both.model_copy(update={"dagster_postgres_db": "nowhere"})
    with server(wrong, 0, "127.0.0.1") as served:
        thread = threading.Thread(target=served.serve_forever, args=[0.05])
        thread.start()
        url = f"http://127.0.0.1:{served.server_address[1]}"
        try:
            with pytest.raises(urllib.error.HTTPError, match="503") as caught:
                urllib.request.urlopen(f"{url}/metrics", timeout=30)
            reason = caught.value.read().decode()
            assert 'database "nowhere" does not exist' in reason
            assert both.postgres_password.get_secret_value() not in reason
            assert urllib.request.urlopen(f"{url}/healthz", timeout=30).read() == b"ok\n"
        finally:
            served.shutdown()
            thread.join()


def test_program_ends_on_sigterm(both: Settings, tmp_path: Path) -> None:
    port = free_port()
    command = f"from sim_pipeline.entrypoints.metrics import main; main({port})"
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        env={**os.environ, **both.environment(), "LOG_FILE": str(tmp_path / "log")},
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: _answers(port), "the metrics", seconds=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
    except OSError:
        return False
    return True


def test_invalid_settings_end_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], both: Settings
) -> None:
    assert both
    monkeypatch.setenv("SIMULATION_INTERVAL", "never")
    assert module.main() == 2
    assert "SIMULATION_INTERVAL" in capsys.readouterr().err
