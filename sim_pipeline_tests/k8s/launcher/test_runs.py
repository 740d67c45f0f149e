"""Runs as Jobs: the launcher and the settings of k8s/, with a fake API server.

What a run does is real: its command, executed with the variables that its Job refers to, writes to
PostgreSQL, publishes to RabbitMQ and reports to Dagster's storage.
"""

import json
import time
from datetime import date
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import dagster_k8s.client
import pytest
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._daemon.monitoring import run_monitoring

from sim_pipeline.dagster_instance import k8s_run_launcher as job_launcher
from sim_pipeline_tests.k8s import test_rights, test_schemas
from sim_pipeline_tests.k8s.launcher.api_server import Job
from sim_pipeline_tests.k8s.launcher.installation import MODELS, Installation, Stored
from sim_pipeline_tests.k8s.manifests import Reference, named, pods
from sim_pipeline_tests.support.queue_reader import drain

pytestmark = pytest.mark.timeout(600)

DAYS = [date(2026, 11, 20), date(2026, 11, 21)]
MODEL = MODELS[0]
NOTHING, A_DAY = Stored(0, 0, 0), Stored(24 * 4, 24, 24)
FAILURE = dg.DagsterEventType.RUN_FAILURE


def finish(installation: Installation, job: Job) -> int:
    """Run the pod of a Job to its end; return its exit code."""
    return installation.cluster.start(job).process.wait(timeout=120)


def test_each_chunk_of_a_backfill_is_a_job_that_simulates_stores_and_publishes(
    installation: Installation,
) -> None:
    jobs = installation.launch(DAYS, *MODELS)
    assert len(jobs) == len(MODELS)
    containers = [installation.cluster.start(job) for job in jobs]
    installation.monitor()
    assert [container.process.wait(timeout=120) for container in containers] == [0, 0]
    installation.monitor()
    assert {installation.status(job.run_id) for job in jobs} == {"SUCCESS"}
    for day in DAYS:
        windows = 24 * len(MODELS)
        assert installation.stored(day) == Stored(4 * windows, windows, windows)
    messages = drain(installation.settings)
    sent = {(one.body[0]["llm_name"], one.body[0]["timestamp"]) for one in messages}
    assert len(messages) == len(sent) == 24 * len(MODELS) * len(DAYS)
    # What it reports is in the log of its pod as well.
    assert "RUN_SUCCESS" in containers[0].output.read_text(encoding="utf-8")


def test_its_job_is_valid_restricted_and_holds_no_secret(
    installation: Installation, tmp_path: Path
) -> None:
    (job,) = installation.launch(DAYS[:1], MODEL)
    for version in test_schemas.VERSIONS:
        done = test_schemas.validate([job.manifest], tmp_path, version)
        assert done.returncode == 0, done.stdout + done.stderr
    # What holds for the pods of the manifests holds for a run's.
    manifests = [*installation.cluster.manifests, job.manifest]
    test_rights.test_every_pod_is_restricted([job.manifest])
    test_rights.test_every_container_has_resources_and_an_image_of_a_known_version(
        "local", [job.manifest]
    )
    test_rights.test_what_is_mounted_can_be_written_only_where_it_is_scratch([job.manifest])
    test_rights.test_everything_referred_to_exists(manifests)
    run, code_location = pods(manifests)["run"], pods(manifests)["code-location"]
    assert run.spec["automountServiceAccountToken"] is False
    assert run.spec["serviceAccountName"] == "run"
    assert run.labels["app.kubernetes.io/name"] == code_location.labels["app.kubernetes.io/name"]
    assert run.spec["containers"][0]["image"] == code_location.spec["containers"][0]["image"]
    assert run.spec["containers"][0]["resources"]["limits"]["memory"] == "512Mi"
    assert {one for one in run.references() if one.kind == "Secret"} == {
        Reference("Secret", "credentials", "POSTGRES_PASSWORD"),
        Reference("Secret", "credentials", "RABBITMQ_PASSWORD"),
    }
    text = json.dumps(job.manifest)
    for password in named(manifests, "Secret", "credentials")["data"].values():
        assert password not in text
    assert job.manifest["spec"]["backoffLimit"] == 0
    assert job.manifest["spec"]["ttlSecondsAfterFinished"] == 3600


def test_a_run_that_fails_is_a_job_that_fails(installation: Installation) -> None:
    day = date(2026, 11, 1)
    (job,) = installation.launch([day], MODEL)
    with installation.results.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE RULE lost AS ON INSERT TO simulation_results"
            " WHERE metric = 'TPS' DO INSTEAD NOTHING"
        )
    try:
        assert finish(installation, job) == 1
    finally:
        with installation.results.engine.begin() as connection:
            connection.exec_driver_sql("DROP RULE lost ON simulation_results")
    assert installation.status(job.run_id) == "FAILURE"
    assert job.status["failed"] == 1
    assert installation.stored(day).published == 0


def test_a_run_whose_pod_was_killed_is_found_and_can_be_launched_again(
    installation: Installation,
) -> None:
    day = date(2026, 11, 2)
    (job,) = installation.launch([day], MODEL)
    container = installation.cluster.start(job)
    with installation.nothing_written() as await_writer:
        await_writer()
        # While nobody can be asked, nothing is known to be wrong with it.
        with installation.api_server.away():
            installation.monitor()
        with installation.cluster.without_right("daemon", "get", "jobs/status"):
            installation.monitor()
        assert installation.status(job.run_id) == "STARTED"
        container.kill()
    installation.monitor()
    assert installation.status(job.run_id) == "FAILURE"
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert "Run has not completed but K8s job has no active pods" in failure
    assert f"Debug information for pod {job.pod_name}" in failure
    assert "Terminated with exit code 137" in failure
    assert installation.run(job.run_id).tags[WILL_RETRY_TAG] == "true"
    assert installation.stored(day) == NOTHING

    (again,) = installation.launch([day], MODEL)
    assert finish(installation, again) == 0
    assert installation.stored(day) == A_DAY


def test_a_run_that_its_node_ends_has_failed_and_is_to_be_launched_again(
    installation: Installation,
) -> None:
    day = date(2026, 11, 8)
    (job,) = installation.launch([day], MODEL)
    container = installation.cluster.start(job)
    with installation.nothing_written() as await_writer:
        await_writer()
        container.end()
    assert container.process.wait(timeout=container.grace) == 1
    assert installation.status(job.run_id) == "FAILURE"
    assert installation.run(job.run_id).tags[WILL_RETRY_TAG] == "true"
    assert installation.stored(day) == NOTHING


def test_a_pod_that_starts_when_its_run_was_given_up_does_nothing(
    installation: Installation,
) -> None:
    day = date(2026, 11, 9)
    (job,) = installation.launch([day], MODEL)
    installation.instance.report_run_failed(installation.run(job.run_id))
    assert finish(installation, job) == 0
    assert installation.status(job.run_id) == "FAILURE"
    assert installation.stored(day) == NOTHING


def test_a_run_whose_job_is_gone_has_failed(installation: Installation) -> None:
    (job,) = installation.launch([date(2026, 11, 3)], MODEL)
    container = installation.cluster.start(job)
    with installation.nothing_written() as await_writer:
        await_writer()
        container.kill()
    del installation.cluster.jobs[job.name]
    installation.monitor()
    assert installation.status(job.run_id) == "FAILURE"
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert f"Job {job.name} could not be found" in failure


def test_a_run_that_never_starts_ends_with_its_job(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = installation.launch([date(2026, 11, 11)], MODEL)
    # Its pod can't be scheduled, so nothing starts it.
    installation.monitor()
    assert job.name in installation.cluster.jobs
    hours_later = time.time() + 3 * 3600
    monkeypatch.setattr(run_monitoring, "get_current_timestamp", lambda: hours_later)
    installation.monitor()
    assert installation.status(job.run_id) == "FAILURE"
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert "taking longer than 600 seconds to start" in failure
    assert job.name not in installation.cluster.jobs


def test_a_job_that_outlived_its_run_is_deleted_with_the_next_launch(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, succeeded = installation.launch([date(2026, 11, day) for day in (12, 13)], *MODELS)
    assert finish(installation, succeeded) == 0
    installation.instance.report_run_failed(installation.run(left.run_id))
    # A pod is given time to end.
    installation.launch([date(2026, 11, 14)], MODEL)
    assert left.name in installation.cluster.jobs
    hours_later = time.time() + 3 * 3600
    monkeypatch.setattr(job_launcher, "time", SimpleNamespace(time=lambda: hours_later))
    (running,) = installation.launch([date(2026, 11, 15)], MODEL)
    assert left.name not in installation.cluster.jobs
    # What has ended, or is under way, stays.
    assert {succeeded.name, running.name} <= installation.cluster.jobs.keys()


def test_a_run_of_a_removed_model_gets_no_job(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", MODELS[0])
    (run,) = installation.request([date(2026, 11, 16)], MODELS[1])
    installation.look_at_queue()
    assert installation.status(run.run_id) == "CANCELED"
    (said,) = installation.messages(run.run_id, dg.DagsterEventType.RUN_CANCELED)
    assert said == f"Not launched: LLM_MODELS_STR no longer names '{MODELS[1]}'"
    assert run.run_id not in {job.run_id for job in installation.cluster.arrived}


def test_a_run_that_is_terminated_ends_in_time_and_leaves_nothing_half_done(
    installation: Installation,
) -> None:
    day = date(2026, 11, 4)
    (job,) = installation.launch([day], MODEL)
    container = installation.cluster.start(job)
    with installation.nothing_written() as await_writer:
        await_writer()
        assert installation.terminate(job.run_id) == {"__typename": "TerminateRunSuccess"}
        assert job.name not in installation.cluster.jobs
        assert job.pod_name not in installation.cluster.pods
        assert installation.status(job.run_id) == "CANCELING"
    container.process.wait(timeout=container.grace)
    assert installation.status(job.run_id) == "CANCELED"
    assert installation.stored(day) == NOTHING

    (again,) = installation.launch([day], MODEL)
    assert finish(installation, again) == 0
    assert installation.stored(day) == A_DAY


def test_a_refusal_of_the_api_server_is_the_runs_error(installation: Installation) -> None:
    (run,) = installation.request([date(2026, 11, 5)], MODEL)
    with installation.cluster.without_right("daemon", "create", "jobs"):
        installation.look_at_queue()
    assert installation.status(run.run_id) == "FAILURE"
    (error,) = installation.errors(run.run_id)
    assert error.strip() == (
        "sim_pipeline.dagster_instance.k8s_run_launcher.LaunchError: The Job of the run was not"
        " made: Kubernetes' API server refuses it with 403: jobs.batch is forbidden: User"
        ' "system:serviceaccount:sim-pipeline:daemon" cannot create resource "jobs" in API group'
        ' "batch" in the namespace "sim-pipeline"'
    )
    assert_no_secret(installation, run.run_id)


def test_an_answer_that_is_not_the_api_servers_is_the_runs_error(
    installation: Installation,
) -> None:
    (run,) = installation.request([date(2026, 11, 10)], MODEL)
    installation.cluster.instead = (HTTPStatus.BAD_GATEWAY, "<html>Oops</html>")
    try:
        installation.look_at_queue()
    finally:
        installation.cluster.instead = None
    (error,) = installation.errors(run.run_id)
    assert error.strip().endswith("Kubernetes' API server refuses it with 502: Bad Gateway")


def test_an_api_server_that_does_not_answer_is_the_runs_error(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    without_pauses = SimpleNamespace(sleep=pauses.append, time=time.time)
    monkeypatch.setattr(dagster_k8s.client, "time", without_pauses)
    (run,) = installation.request([date(2026, 11, 6)], MODEL)
    with installation.api_server.away():
        installation.look_at_queue()
    assert pauses == [10, 10, 10]
    assert installation.status(run.run_id) == "FAILURE"
    (error,) = installation.errors(run.run_id)
    assert "The Job of the run was not made: Kubernetes' API server does not answer: " in error
    assert f"host='localhost', port={installation.api_server.port}" in error
    assert "Connection refused" in error
    assert_no_secret(installation, run.run_id)


def assert_no_secret(installation: Installation, run_id: str) -> None:
    said = installation.said(run_id)
    credentials = named(installation.cluster.manifests, "Secret", "credentials")
    for secret in (*credentials["data"].values(), *installation.cluster.tokens.values()):
        assert secret not in said


def test_a_tag_of_a_run_gets_it_resources_and_nothing_else(installation: Installation) -> None:
    memory = {"resources": {"limits": {"memory": "2Gi"}}}
    bigger, other = (
        installation.request(
            [date(2026, 11, 7)], MODEL, tags={"dagster-k8s/config": json.dumps(config)}
        )[0].run_id
        for config in (
            {"container_config": memory},
            {"container_config": {**memory, "image": "another"}},
        )
    )
    installation.look_at_queue()
    (job,) = (job for job in installation.cluster.arrived if job.run_id in {bigger, other})
    assert job.run_id == bigger
    assert job.spec["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert installation.status(other) == "FAILURE"
    (error,) = installation.errors(other)
    assert "violated the allowed list: container_config.image" in error
