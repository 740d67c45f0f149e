"""The private RabbitMQ node."""

import os
import re
import socket
from pathlib import Path

import pika
import psutil
import pytest
from pika.exceptions import ProbableAuthenticationError

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers import rabbitmq
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ, boot_error
from sim_pipeline_tests.local_servers.test_ports import with_ipv6
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.process_helpers import processes_of, start_and_lose_owner
from sim_pipeline_tests.support.tmpfs import tmpfs

QUEUE = "kept"


def server_in(
    directory: Path,
    *,
    port: int | None = None,
    password: str = 'it\'s "secret"',  # noqa: S107
    vhost: str = "/",
    host: str = "127.0.0.1",
    start_timeout: float = 120.0,
) -> LocalRabbitMQ:
    return LocalRabbitMQ(
        directory,
        host=host,
        port=port or free_port(host),
        user="simulation",
        password=password,
        vhost=vhost,
        start_timeout=start_timeout,
    )


def publish(server: LocalRabbitMQ, body: bytes) -> None:
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(QUEUE, durable=True)
        properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
        channel.basic_publish("", QUEUE, body, properties)


def publish_to_quorum_queue(server: LocalRabbitMQ, body: bytes) -> None:
    """Declare the queue as an application does, with the defaults of its RabbitMQ."""
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery()
        channel.basic_publish("", QUEUE, body)


def receive(server: LocalRabbitMQ) -> bytes | None:
    with pika.BlockingConnection(server.connection_parameters()) as connection:
        _, _, body = connection.channel().basic_get(QUEUE, auto_ack=True)
        return body


def node(directory: Path) -> psutil.Process:
    return psutil.Process(int((directory / "node.pid").read_text()))


def test_only_our_user_exists(rabbitmq_server: LocalRabbitMQ) -> None:
    rows = rabbitmq_server.ctl("list_users", "--no-table-headers").splitlines()
    assert [row.split()[0] for row in rows] == [rabbitmq_server.user]


def test_node_listens_on_loopback_only(rabbitmq_server: LocalRabbitMQ) -> None:
    listening = {
        connection.laddr.ip
        for process in processes_of(rabbitmq_server.data_dir)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert "127.0.0.1" in listening
    assert listening <= {"127.0.0.1", "::1"}


def test_configuration_is_private_to_its_owner(rabbitmq_server: LocalRabbitMQ) -> None:
    for name in ("rabbitmq.conf", "definitions.json", ".erlang.cookie"):
        file = rabbitmq_server.data_dir / name
        assert file.stat().st_mode & 0o077 == 0
        assert rabbitmq_server.password not in file.read_text()


def test_node_has_its_own_session(rabbitmq_server: LocalRabbitMQ) -> None:
    processes = processes_of(rabbitmq_server.data_dir)
    assert {"beam.smp", "epmd"} <= {process.name() for process in processes}
    assert os.getsid(0) not in {os.getsid(process.pid) for process in processes}


def test_ctl_error_omits_the_arguments(rabbitmq_server: LocalRabbitMQ) -> None:
    user, password = rabbitmq_server.user, "a new one"
    with pytest.raises(ServiceError, match=r"^RabbitMQ: rabbitmqctl add_user: .*exists") as raised:
        rabbitmq_server.ctl("add_user", user, password)
    assert password not in str(raised.value)


def test_ctl_needs_a_running_node(directory: Path) -> None:
    with pytest.raises(ServiceError, match=r"rabbitmqctl list_users: the node is not running"):
        server_in(directory).ctl("list_users")


def test_second_owner_is_refused(rabbitmq_server: LocalRabbitMQ) -> None:
    second = server_in(rabbitmq_server.data_dir)
    with pytest.raises(ServiceError, match=f"in use by process {os.getpid()}"):
        second.start()
    second.stop()
    assert rabbitmq_server.is_running


def test_messages_survive_a_new_password(directory: Path) -> None:
    with server_in(directory) as server:
        publish(server, b"message")
    assert not server.is_running
    assert processes_of(directory) == []
    with server_in(directory, password="another") as changed:  # noqa: S106
        assert receive(changed) == b"message"
        before = server_in(directory, port=changed.port)
        with pytest.raises(ProbableAuthenticationError):
            pika.BlockingConnection(before.connection_parameters())


def test_node_of_a_killed_owner_is_adopted(directory: Path) -> None:
    server = server_in(directory)
    start_and_lose_owner(server)
    left = node(directory)
    with server:
        assert node(directory) == left
        assert server.ctl("list_queues") == ""
    assert processes_of(directory) == []


def test_node_that_refuses_us_is_replaced(directory: Path) -> None:
    before = server_in(directory)
    start_and_lose_owner(before)
    publish(before, b"message")
    left = node(directory)
    with server_in(directory, port=before.port, vhost="simulations") as server:
        assert node(directory) != left
        assert server.ctl("list_queues", "--vhost", "/", "--no-table-headers") == "kept\t1\n"


def test_port_in_use_is_reported_before_the_start(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"^RabbitMQ: port {port} .*RABBITMQ_PORT"):
            server_in(directory, port=port).start()
    assert not (directory / "log").exists()


def test_start_timeout_error_names_the_log(directory: Path) -> None:
    server = server_in(directory, start_timeout=0)
    with pytest.raises(
        ServiceError, match=rf"does not answer on .* \(log: {re.escape(str(server.log_file))}\)$"
    ):
        server.start()
    assert processes_of(directory) == []


@pytest.mark.parametrize("host", [pytest.param("::1", marks=with_ipv6), "localhost"])
def test_node_listens_on_the_given_host(directory: Path, host: str) -> None:
    with server_in(directory, host=host) as server:
        publish(server, b"message")
        assert receive(server) == b"message"


def test_quorum_queue_survives_a_moved_directory(directory: Path) -> None:
    before, after = directory / "before [1]", directory / "after *"
    with server_in(before) as server:
        publish_to_quorum_queue(server, b"message")
    before.rename(after)
    with server_in(after) as server:
        assert receive(server) == b"message"


def test_node_measures_free_disk_space(directory: Path) -> None:
    with server_in(directory) as server:
        assert int(server.ctl("eval", "rabbit_disk_monitor:get_disk_free().")) > 0


def test_path_that_is_not_utf8_is_reported(directory: Path) -> None:
    path = directory / os.fsdecode(b"caf\xe9")
    with pytest.raises(
        ServiceError, match=r"which contains the byte b'\\xe9', which is not UTF-8: move"
    ):
        server_in(path).start()


def test_shell_characters_need_proc(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "_WORKING_DIRECTORY", directory / "missing")
    with pytest.raises(ServiceError, match=r"which contains the character '\$': move the checkout"):
        server_in(directory).start()


def test_ordinary_path_needs_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rabbitmq, "_WORKING_DIRECTORY", tmp_path / "missing")
    with server_in(tmp_path / "with a space") as server:
        publish(server, b"message")
        assert receive(server) == b"message"
        assert server.log_file.exists()


def test_full_disk_is_reported(directory: Path) -> None:
    with (
        tmpfs(directory, "size=256m,nr_inodes=12"),
        pytest.raises(ServiceError, match=r"^RabbitMQ: No space left on device \(log: "),
    ):
        server_in(directory).start()


BOOT_ERRORS = {
    "one line": ("ERROR: epmd error", "epmd error"),
    "several lines": (
        "Error during startup: {error,\n                       {not_a_dets_file,\n  'names'}}",
        "Error during startup: {error, {not_a_dets_file, 'names'}}",
    ),
    "heading": (
        "Exception during startup:\n\nerror:{badmatch,\n   killed}",
        "Exception during startup: error:{badmatch, killed}",
    ),
    "log line between": (
        "Error 2026-11-27 15:08:43.475318+00:00 [notice] <0.45.0> exited\nduring startup: {error}",
        "Error during startup: {error}",
    ),
}


@pytest.mark.parametrize(("text", "shown"), BOOT_ERRORS.values(), ids=BOOT_ERRORS.keys())
def test_boot_error_is_shown(tmp_path: Path, text: str, shown: str) -> None:
    output = f"\nBOOT FAILED\n===========\n{text}\n\n{{exit,terminating}}\n"
    assert boot_error(output, tmp_path) == shown


def test_broken_data_is_reported(directory: Path) -> None:
    with server_in(directory) as server:
        pass
    (queues,) = (directory / "mnesia").glob("*/quorum/*/names.dets")
    queues.write_bytes(b"garbage")
    with pytest.raises(
        ServiceError, match=r"^RabbitMQ: Error during startup: \{error, .*not_a_dets_file"
    ):
        server.start()


FEATURE_FLAGS = {
    "4.0": "Error during startup: {error,failed_to_initialize_feature_flags_registry}",
    "4.3": "Error during startup: {error,\n  {failed_to_initialize_feature_flags_registry,\n"
    "    {disabled_required_feature_flag,\n   listener_records_in_ets}}}",
}


@pytest.mark.parametrize("text", FEATURE_FLAGS.values(), ids=FEATURE_FLAGS.keys())
def test_data_of_a_much_older_version_is_recognised(tmp_path: Path, text: str) -> None:
    error = boot_error(f"\nBOOT FAILED\n===========\n{text}\n\n{{exit,terminating}}\n", tmp_path)
    assert error is not None
    assert error.startswith(f"this version cannot open the data in {tmp_path}, which a much older")


def test_failing_consumer_never_loses_a_message(directory: Path) -> None:
    with server_in(directory) as server:
        publish_to_quorum_queue(server, b"message")
        for _ in range(25):
            with pika.BlockingConnection(server.connection_parameters()) as connection:
                method, _, _ = next(connection.channel().consume(QUEUE, inactivity_timeout=10))
                assert method is not None
        assert receive(server) == b"message"


def test_policy_of_the_user_comes_first(directory: Path) -> None:
    with server_in(directory) as server:
        publish_to_quorum_queue(server, b"message")
        server.ctl("set_policy", "mine", ".*", '{"max-length": 5}', "--apply-to", "queues")
    with server_in(directory) as server:
        rows = server.ctl("list_queues", "policy", "--no-table-headers").split()
        assert rows == ["mine"]
