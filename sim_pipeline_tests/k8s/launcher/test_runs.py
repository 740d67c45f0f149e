"""Runs as Kubernetes Jobs: the launcher and the manifests, with a fake API server.

The runs themselves are real. A Job's command, with the variables that the Job refers to, writes to
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
from dagster._core.events import DagsterEvent
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._daemon.monitoring import run_monitoring

from sim_pipeline.dagster_instance import k8s_run_launcher
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
VIOLATION = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'


def finish(installation: Installation, job: Job) -> int:
    """Run the pod of a Job to its end; return its exit code."""
    return installation.cluster.start(job).process.wait(timeout=120)


def test_backfill_runs_as_jobs(installation: Installation) -> None:
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
    windows_sent = {(each.body[0]["llm_name"], each.body[0]["timestamp"]) for each in messages}
    assert len(messages) == len(windows_sent) == 24 * len(MODELS) * len(DAYS)
    # The run's events are also in the pod's log.
    assert "RUN_SUCCESS" in containers[0].output.read_text(encoding="utf-8")


def test_job_is_valid_restricted_and_without_secrets(
    installation: Installation, tmp_path: Path
) -> None:
    (job,) = installation.launch(DAYS[:1], MODEL)
    for version in test_schemas.VERSIONS:
        done = test_schemas.validate([job.manifest], tmp_path, version)
        assert done.returncode == 0, done.stdout + done.stderr
    # The checks of the manifests' pods also apply to a run's pod.
    manifests = [*installation.cluster.manifests, job.manifest]
    test_rights.test_every_pod_is_restricted([job.manifest])
    test_rights.test_containers_have_resources_and_pinned_images("local", [job.manifest])
    test_rights.test_only_scratch_volumes_are_writable([job.manifest])
    test_rights.test_referenced_objects_exist(manifests)
    run, code_location = pods(manifests)["run"], pods(manifests)["code-location"]
    assert run.spec["automountServiceAccountToken"] is False
    assert run.spec["serviceAccountName"] == "run"
    assert run.labels["app.kubernetes.io/name"] == code_location.labels["app.kubernetes.io/name"]
    assert run.spec["containers"][0]["image"] == code_location.spec["containers"][0]["image"]
    assert run.spec["containers"][0]["resources"]["limits"]["memory"] == "512Mi"
    assert {each for each in run.references() if each.kind == "Secret"} == {
        Reference("Secret", "credentials", "POSTGRES_PASSWORD"),
        Reference("Secret", "credentials", "RABBITMQ_PASSWORD"),
    }
    text = json.dumps(job.manifest)
    for password in named(manifests, "Secret", "credentials")["data"].values():
        assert password not in text
    assert job.manifest["spec"]["backoffLimit"] == 0
    assert job.manifest["spec"]["ttlSecondsAfterFinished"] == 3600


def test_run_pods_file_adds_to_the_pods_of_runs(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run_pods.yaml").write_text(
        "nodeSelector: {pool: batch}\n"
        "tolerations: [{key: batch, operator: Exists}]\n"
        "terminationGracePeriodSeconds: 45\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    # The client of the daemon is kept: it has the daemon's token.
    monkeypatch.setattr(dagster_k8s.launcher, "load_kubernetes_config", lambda **_: None)
    launcher = installation.instance.run_launcher
    assert isinstance(launcher, k8s_run_launcher.K8sJobRunLauncher)
    assert launcher.inst_data is not None
    read = launcher.inst_data.rehydrate(as_type=k8s_run_launcher.K8sJobRunLauncher)
    monkeypatch.setattr(launcher, "_run_k8s_config", read.run_k8s_config)
    (job,) = installation.launch([date(2026, 10, 2)], MODEL)
    assert job.spec["nodeSelector"] == {"pool": "batch"}
    assert job.spec["tolerations"] == [{"key": "batch", "operator": "Exists"}]
    assert job.spec["terminationGracePeriodSeconds"] == 45
    assert job.spec["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nodeSelectors: {}", "Unexpected keys in model class V1PodSpec: {'nodeSelectors'}"),
        ("[1]", 'Param "pod_spec_config" is not'),
    ],
)
def test_invalid_run_pods_file_is_refused(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    problem: str,
) -> None:
    (tmp_path / "run_pods.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    launcher = installation.instance.run_launcher
    assert isinstance(launcher, k8s_run_launcher.K8sJobRunLauncher)
    assert launcher.inst_data is not None
    with pytest.raises(k8s_run_launcher.RunPodsError) as caught:
        launcher.inst_data.rehydrate(as_type=k8s_run_launcher.K8sJobRunLauncher)
    assert str(caught.value).startswith("run_pods.yaml: allowed are fields of a pod's spec: ")
    assert problem in str(caught.value)


def test_failed_run_fails_its_job(installation: Installation) -> None:
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


def test_run_of_killed_pod_fails_and_can_be_repeated(
    installation: Installation,
) -> None:
    day = date(2026, 11, 2)
    (job,) = installation.launch([day], MODEL)
    container = installation.cluster.start(job)
    with installation.writes_blocked() as await_writer:
        await_writer()
        # Without an answer from the API server, monitoring must not fail the run.
        with installation.api_server.unreachable():
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


def test_run_ended_by_its_node_fails_and_is_retried(
    installation: Installation,
) -> None:
    day = date(2026, 11, 8)
    (job,) = installation.launch([day], MODEL)
    container = installation.cluster.start(job)
    with installation.writes_blocked() as await_writer:
        await_writer()
        container.end()
    assert container.process.wait(timeout=container.grace) == 1
    assert installation.status(job.run_id) == "FAILURE"
    assert installation.run(job.run_id).tags[WILL_RETRY_TAG] == "true"
    assert installation.stored(day) == NOTHING


def test_pod_of_failed_run_does_nothing(
    installation: Installation,
) -> None:
    day = date(2026, 11, 9)
    (job,) = installation.launch([day], MODEL)
    installation.instance.report_run_failed(installation.run(job.run_id))
    assert finish(installation, job) == 0
    assert installation.status(job.run_id) == "FAILURE"
    assert installation.stored(day) == NOTHING


def test_run_of_deleted_job_fails(installation: Installation) -> None:
    (job,) = installation.launch([date(2026, 11, 3)], MODEL)
    container = installation.cluster.start(job)
    with installation.writes_blocked() as await_writer:
        await_writer()
        container.kill()
    del installation.cluster.jobs[job.name]
    installation.monitor()
    assert installation.status(job.run_id) == "FAILURE"
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert f"Job {job.name} could not be found" in failure


def test_run_that_never_starts_fails_without_job(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = installation.launch([date(2026, 11, 11)], MODEL)
    # The test never starts the pod, as if it could not be scheduled.
    installation.monitor()
    assert job.name in installation.cluster.jobs
    hours_later = time.time() + 3 * 3600
    monkeypatch.setattr(run_monitoring, "get_current_timestamp", lambda: hours_later)
    installation.monitor()
    assert installation.status(job.run_id) == "FAILURE"
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert "taking longer than 600 seconds to start" in failure
    assert job.name not in installation.cluster.jobs


def test_run_whose_pod_dies_before_it_starts_fails(installation: Installation) -> None:
    day = date(2026, 11, 17)
    (job,) = installation.launch([day], MODEL)
    installation.cluster.start(job).kill()  # it needs seconds for its imports
    assert installation.status(job.run_id) == "STARTING"
    with installation.api_server.unreachable():
        installation.monitor()
    assert installation.status(job.run_id) == "STARTING"
    installation.monitor()
    assert installation.status(job.run_id) == "FAILURE"
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert failure.startswith("The run did not start. The Job ended before the run started\n")
    assert "Terminated with exit code 137" in failure
    assert installation.run(job.run_id).tags[WILL_RETRY_TAG] == "true"
    # The Job stays, so that a person can examine its pod.
    assert job.name in installation.cluster.jobs


def test_starting_run_of_deleted_job_fails(installation: Installation) -> None:
    (job,) = installation.launch([date(2026, 11, 18)], MODEL)
    del installation.cluster.jobs[job.name]
    installation.monitor()
    (failure,) = installation.messages(job.run_id, FAILURE)
    assert failure.startswith(f"The run did not start. Job {job.name} could not be found\n")


def test_starting_run_without_job_yet_is_left_alone(installation: Installation) -> None:
    (run,) = installation.request([date(2026, 11, 19)], MODEL)
    # Dagster reports this just before it calls the launcher.
    installation.instance.report_dagster_event(
        DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, run.job_name), run.run_id
    )
    installation.monitor()
    assert installation.status(run.run_id) == "STARTING"
    installation.instance.report_run_canceled(installation.run(run.run_id))


@pytest.mark.parametrize(
    ("waiting", "refusal", "expected"),
    [
        ("ImagePullBackOff", None, "Its pod cannot start: ImagePullBackOff: as the test says\n"),
        (None, VIOLATION, f"Kubernetes refuses its pod: {VIOLATION}\n"),
        ("ContainerCreating", None, None),
        (None, 'pods "x" is forbidden: exceeded quota: pods, limited: pods=1', None),
        (None, None, None),
    ],
)
def test_run_whose_pod_cannot_start_fails_after_two_minutes(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    waiting: str | None,
    refusal: str | None,
    expected: str | None,
) -> None:
    (job,) = installation.launch([date(2026, 10, 1)], MODEL)
    job.refusal = refusal
    if waiting is not None:
        installation.cluster.block(job, waiting)
    installation.monitor()
    assert installation.status(job.run_id) == "STARTING"
    later = time.time() + 121
    monkeypatch.setattr(k8s_run_launcher, "time", SimpleNamespace(time=lambda: later))
    installation.monitor()
    if expected is None:
        assert installation.status(job.run_id) == "STARTING"
        assert job.name in installation.cluster.jobs
        installation.instance.report_run_canceled(installation.run(job.run_id))
    else:
        (failure,) = installation.messages(job.run_id, FAILURE)
        assert failure.startswith(f"The run did not start. {expected}")
        assert installation.run(job.run_id).tags[WILL_RETRY_TAG] == "true"
        assert job.name not in installation.cluster.jobs


def test_next_launch_deletes_leftover_jobs(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, succeeded = installation.launch([date(2026, 11, day) for day in (12, 13)], *MODELS)
    left.refusal = VIOLATION  # so it has no active pod
    assert finish(installation, succeeded) == 0
    installation.instance.report_run_failed(installation.run(left.run_id))
    # A recently failed run keeps its Job: the pod gets time to end.
    installation.launch([date(2026, 11, 14)], MODEL)
    assert left.name in installation.cluster.jobs
    hours_later = time.time() + 3 * 3600
    monkeypatch.setattr(k8s_run_launcher, "time", SimpleNamespace(time=lambda: hours_later))
    (running,) = installation.launch([date(2026, 11, 15)], MODEL)
    assert left.name not in installation.cluster.jobs
    # Jobs of finished and running runs stay.
    assert {succeeded.name, running.name} <= installation.cluster.jobs.keys()


def test_run_of_removed_model_is_canceled(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", MODELS[0])
    (run,) = installation.request([date(2026, 11, 16)], MODELS[1])
    installation.launch_queued_runs()
    assert installation.status(run.run_id) == "CANCELED"
    (message,) = installation.messages(run.run_id, dg.DagsterEventType.RUN_CANCELED)
    assert message == f"Not launched: LLM_MODELS_STR no longer names '{MODELS[1]}'"
    assert run.run_id not in {job.run_id for job in installation.cluster.created_jobs}


def test_terminated_run_ends_and_writes_nothing(
    installation: Installation,
) -> None:
    day = date(2026, 11, 4)
    (job,) = installation.launch([day], MODEL)
    container = installation.cluster.start(job)
    with installation.writes_blocked() as await_writer:
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


def test_refused_launch_is_an_error_of_the_run(installation: Installation) -> None:
    (run,) = installation.request([date(2026, 11, 5)], MODEL)
    with installation.cluster.without_right("daemon", "create", "jobs"):
        installation.launch_queued_runs()
    assert installation.status(run.run_id) == "FAILURE"
    (error,) = installation.errors(run.run_id)
    assert error.strip() == (
        "sim_pipeline.dagster_instance.k8s_run_launcher.LaunchError: Could not create the Job of"
        " the run: the Kubernetes API server refused the request with status 403: jobs.batch is"
        " forbidden: User"
        ' "system:serviceaccount:sim-pipeline:daemon" cannot create resource "jobs" in API group'
        ' "batch" in the namespace "sim-pipeline"'
    )
    assert_no_secret(installation, run.run_id)


def test_invalid_answer_is_an_error_of_the_run(
    installation: Installation,
) -> None:
    (run,) = installation.request([date(2026, 11, 10)], MODEL)
    installation.cluster.fixed_answer = (HTTPStatus.BAD_GATEWAY, "<html>Oops</html>")
    try:
        installation.launch_queued_runs()
    finally:
        installation.cluster.fixed_answer = None
    (error,) = installation.errors(run.run_id)
    assert error.strip().endswith(
        "the Kubernetes API server refused the request with status 502: Bad Gateway"
    )


def test_unreachable_api_server_is_an_error_of_the_run(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    without_pauses = SimpleNamespace(sleep=pauses.append, time=time.time)
    monkeypatch.setattr(dagster_k8s.client, "time", without_pauses)
    (run,) = installation.request([date(2026, 11, 6)], MODEL)
    with installation.api_server.unreachable():
        installation.launch_queued_runs()
    assert pauses == [10, 10, 10]
    assert installation.status(run.run_id) == "FAILURE"
    (error,) = installation.errors(run.run_id)
    assert (
        "Could not create the Job of the run: the Kubernetes API server does not answer: " in error
    )
    assert f"host='localhost', port={installation.api_server.port}" in error
    assert "Connection refused" in error
    assert_no_secret(installation, run.run_id)


def assert_no_secret(installation: Installation, run_id: str) -> None:
    events = installation.event_log(run_id)
    credentials = named(installation.cluster.manifests, "Secret", "credentials")
    for secret in (*credentials["data"].values(), *installation.cluster.tokens.values()):
        assert secret not in events


def test_run_tag_may_change_only_resources(installation: Installation) -> None:
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
    installation.launch_queued_runs()
    (job,) = (job for job in installation.cluster.created_jobs if job.run_id in {bigger, other})
    assert job.run_id == bigger
    assert job.spec["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert installation.status(other) == "FAILURE"
    (error,) = installation.errors(other)
    assert "violated the allowed list: container_config.image" in error
