"""Fixtures: one installation per test module, because its code location takes seconds to start."""

import copy
import secrets
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dagster as dg
import kubernetes
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from sim_pipeline.config import read_settings
from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.local_servers.ports import listens
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.store.migrations import upgrade
from sim_pipeline_tests.conftest import clear_settings
from sim_pipeline_tests.k8s.conftest import rendered
from sim_pipeline_tests.k8s.launcher.api_server import HOST, ApiServer, Cluster
from sim_pipeline_tests.k8s.launcher.installation import MODELS, Installation
from sim_pipeline_tests.k8s.launcher.kubelet import PROJECT, Node
from sim_pipeline_tests.k8s.manifests import named
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.databases import database_in
from sim_pipeline_tests.support.ports import free_port


@pytest.fixture(scope="module")
def cluster(
    postgres_server: LocalPostgres,
    rabbitmq_server: LocalRabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """A cluster with the objects of the overlay `local`.

    Its ConfigMap has the addresses of the test servers and only two models. Its Secret, which
    `make k8s-apply` normally creates, has the servers' passwords.
    """
    manifests = copy.deepcopy(rendered("local"))
    port = str(free_port())
    data = named(manifests, "ConfigMap", "settings")["data"]
    replaced = {
        "POSTGRES_HOST": postgres_server.host,
        "POSTGRES_PORT": str(postgres_server.port),
        "POSTGRES_USER": postgres_server.user,
        "POSTGRES_DB": f"results_{uuid.uuid4().hex}",
        "DAGSTER_POSTGRES_DB": f"dagster_{uuid.uuid4().hex}",
        "DAGSTER_STORAGE_HOST": postgres_server.host,
        "DAGSTER_STORAGE_PORT": str(postgres_server.port),
        "RABBITMQ_HOST": rabbitmq_server.host,
        "RABBITMQ_PORT": str(rabbitmq_server.port),
        "RABBITMQ_USER": rabbitmq_server.user,
        "RABBITMQ_QUEUE": f"test-{uuid.uuid4().hex}",
        "CODE_SERVER_HOST": "127.0.0.1",
        "CODE_SERVER_PORT": port,
        "LLM_MODELS_STR": ",".join(MODELS),
    }
    assert replaced.keys() <= data.keys()
    data |= replaced
    manifests.append(
        {
            "kind": "Secret",
            "metadata": {"name": "credentials"},
            "data": {
                "POSTGRES_PASSWORD": postgres_server.password,
                "RABBITMQ_PASSWORD": rabbitmq_server.password,
            },
        }
    )
    arguments = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=4000": f"--port={port}"}
    node = Node(tmp_path_factory.mktemp("node"), manifests, arguments)
    accounts = ("daemon", "webserver", "code-location", "run")
    cluster = Cluster(manifests, node, {name: secrets.token_urlsafe() for name in accounts})
    yield cluster
    for job in cluster.created_jobs:
        if job.container is not None:
            job.container.kill()


@pytest.fixture(scope="module")
def installation(
    cluster: Cluster,
    postgres_server: LocalPostgres,
    rabbitmq_server: LocalRabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """The pipeline in that cluster, with migrated databases and a running API server."""
    directory = tmp_path_factory.mktemp("cluster")
    authority = Authority.make(directory)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(_default_configuration_kept())
        api_server = stack.enter_context(ApiServer(cluster, authority.server_context(HOST)))
        clear_settings(patch)
        patch.chdir(directory)
        for name, value in _environment_of(cluster, "daemon").items():
            patch.setenv(name, value)
        # The variables that Kubernetes sets in a pod with a token.
        patch.setenv("KUBERNETES_SERVICE_HOST", HOST)
        patch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.port))
        patch.setenv("NO_PROXY", HOST)
        in_cluster = kubernetes.config.incluster_config
        patch.setattr(in_cluster, "SERVICE_CERT_FILENAME", str(authority.ca_file))

        settings = read_settings({"rabbitmq_password": rabbitmq_server.password})
        for database in (settings.postgres_db, settings.dagster_postgres_db):
            postgres_server.ensure_database(database)
        results = database_in(postgres_server, settings.postgres_db)
        stack.callback(results.engine.dispose)
        upgrade(results)
        with dg.DagsterInstance.get() as instance:
            create_tables(instance)

        template = named(cluster.manifests, "Deployment", "code-location")["spec"]["template"]
        code_location = cluster.node.run("code-location", template)
        stack.callback(code_location.kill)
        wait_until(
            lambda: listens("127.0.0.1", int(cluster.node.arguments["--port=4000"][7:])),
            "the code location",
            seconds=120,
        )
        contexts = {}
        for account in ("daemon", "webserver"):
            token = directory / account
            token.write_text(cluster.tokens[account], encoding="utf-8")
            with pytest.MonkeyPatch.context() as its_token:
                its_token.setattr(in_cluster, "SERVICE_TOKEN_FILENAME", str(token))
                instance = stack.enter_context(dg.DagsterInstance.get())
                assert instance.run_launcher  # reads the token on first use
            contexts[account] = stack.enter_context(
                WorkspaceProcessContext(
                    instance, WorkspaceFileTarget([str(PROJECT / "workspace.yaml")])
                )
            )
        yield Installation(
            cluster, api_server, contexts["daemon"], contexts["webserver"], settings, results
        )


def _environment_of(cluster: Cluster, deployment: str) -> dict[str, str]:
    """Return the environment of a Deployment's pods."""
    spec = named(cluster.manifests, "Deployment", deployment)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    volumes = cluster.node.mounted(deployment, spec, container)
    return cluster.node.environment(container, volumes)


@contextmanager
def _default_configuration_kept() -> Iterator[None]:
    """Restore the default configuration of the Kubernetes client, which the launcher changes."""
    before = kubernetes.client.Configuration.get_default_copy()
    try:
        yield
    finally:
        kubernetes.client.Configuration.set_default(before)
