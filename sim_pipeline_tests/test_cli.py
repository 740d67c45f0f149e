"""The commands `consume` and `exec`, run as a user runs them."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.message import OutgoingMessage
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.broker.harness import Queue, messages, publish
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

pytestmark = pytest.mark.usefixtures("clean_environment")

COMMAND = [sys.executable, "-m", "sim_pipeline"]
SECONDS = 30
# Characters that a shell would interpret if it read `.env`.
NASTY = """a b; touch owned & $HOME `touch owned` "c" it's \\ | > owned"""

WriteEnvFile = Callable[..., None]


@pytest.fixture
def connection(rabbitmq_server: LocalRabbitMQ) -> Iterator[pika.BlockingConnection]:
    with pika.BlockingConnection(rabbitmq_server.connection_parameters()) as connection:
        yield connection


@pytest.fixture
def source(connection: pika.BlockingConnection) -> Iterator[Queue]:
    """A queue that does not exist yet, with shell characters in its name."""
    source = Queue(connection, f"{NASTY} {uuid4()}")
    yield source
    source.delete()


@pytest.fixture
def config(rabbitmq_server: LocalRabbitMQ, source: Queue) -> BrokerConfig:
    return BrokerConfig(
        host=rabbitmq_server.host,
        port=rabbitmq_server.port,
        user=rabbitmq_server.user,
        password=rabbitmq_server.password,
        vhost=rabbitmq_server.vhost,
        queue=source.name,
    )


@pytest.fixture
def write_env_file(tmp_path: Path, config: BrokerConfig) -> WriteEnvFile:
    """Write `.env` with the settings of the queue; arguments override them."""

    def write(**settings: object) -> None:
        values = {
            "RABBITMQ_HOST": config.host,
            "RABBITMQ_PORT": config.port,
            "RABBITMQ_USER": config.user,
            "RABBITMQ_PASSWORD": config.password,
            "RABBITMQ_VHOST": config.vhost,
            "RABBITMQ_QUEUE": config.queue,
            **settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        (tmp_path / ".env").write_text(text, encoding="utf-8")

    write()
    return write


@contextmanager
def consuming(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*COMMAND, "consume", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], SECONDS)[0]:
        process.terminate()
        pytest.fail(f"no line was printed: {finish(process)[1]}")
    return process.stdout.readline()


def finish(process: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    """Wait until it exits; return the rest of its stdout and stderr."""
    output, errors = process.communicate(timeout=SECONDS)
    return output, errors.decode()


def has_consumer(connection: pika.BlockingConnection, queue: Queue) -> bool:
    try:
        with connection.channel() as channel:
            return channel.queue_declare(queue.name, passive=True).method.consumer_count > 0
    except ChannelClosedByBroker:
        return False


def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.usefixtures("write_env_file")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_consume_prints_and_acknowledges_once(
    config: BrokerConfig,
    connection: pika.BlockingConnection,
    source: Queue,
    number: signal.Signals,
    status: int,
) -> None:
    sent = messages(3)
    with consuming() as process:
        # consume declares the queue like the publisher; the broker would refuse a different one.
        wait_until(lambda: has_consumer(connection, source))
        source.declare(x_queue_type="quorum")
        publish(config, [*sent[:2], sent[0], OutgoingMessage(sent[2].message_id, b'[\r\n1,\n"a"]')])
        lines = [read_line(process) for _ in range(3)]
        wait_until(lambda: source.count() == 0)
        process.send_signal(number)
        rest, errors = finish(process)

    assert lines == [sent[0].body + b"\n", sent[1].body + b"\n", b'[  1, "a"]\n']
    assert (rest, process.returncode) == (b"", status)
    assert "Traceback" not in errors
    assert source.drain() == []
    assert {path.name for path in Path.cwd().iterdir()} == {".env", "logs"}


@pytest.mark.usefixtures("write_env_file")
def test_consume_takes_no_more_than_its_limit(config: BrokerConfig, source: Queue) -> None:
    sent = messages(4)
    publish(config, sent)

    done = run("consume", "--limit", "2")

    assert done.stdout == f"{sent[0].body.decode()}\n{sent[1].body.decode()}\n"
    left = source.drain()
    assert [message.message_id for message in left] == [one.message_id for one in sent[2:]]
    # A message that is delivered and returned would count towards the queue's delivery limit.
    assert not any((message.properties.headers or {}).get("x-delivery-count") for message in left)


def test_consume_survives_a_lost_connection(
    config: BrokerConfig,
    connection: pika.BlockingConnection,
    source: Queue,
    write_env_file: WriteEnvFile,
) -> None:
    sent = messages(2)
    with TcpProxy((config.host, config.port)) as proxy:
        write_env_file(RABBITMQ_HOST=proxy.host, RABBITMQ_PORT=proxy.port)
        with consuming() as process:
            wait_until(lambda: proxy.open_connections == 1)
            wait_until(lambda: has_consumer(connection, source))
            # The acknowledgement of the first message is lost, so the broker delivers it again.
            proxy.half_open(Direction.TO_SERVER)
            publish(config, sent[:1])
            assert read_line(process) == sent[0].body + b"\n"
            proxy.reset()
            publish(config, sent[1:])
            assert read_line(process) == sent[1].body + b"\n"
            wait_until(lambda: source.count() == 0)
            process.terminate()
            output, errors = finish(process)
    assert (output, process.returncode) == (b"", 0)
    assert "lost the connection" in errors
    assert "next attempt in" in errors
    assert source.drain() == []


@pytest.mark.usefixtures("write_env_file")
def test_consume_redeclares_a_deleted_queue(
    config: BrokerConfig, connection: pika.BlockingConnection, source: Queue
) -> None:
    sent = messages(2)
    publish(config, sent[:1])
    with consuming() as process:
        assert read_line(process)
        source.delete()
        wait_until(lambda: has_consumer(connection, source))
        publish(config, sent[1:])
        assert read_line(process)
        process.terminate()
        _, errors = finish(process)
    assert "was deleted" in errors


@pytest.mark.usefixtures("write_env_file")
def test_consume_ends_when_its_reader_has_gone(config: BrokerConfig, source: Queue) -> None:
    publish(config, messages(1))
    with consuming() as process:
        assert read_line(process)
        assert process.stdout is not None
        process.stdout.close()
        # It ends without another message.
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read().count(b"\n") == 1
    assert source.drain() == []

    publish(config, messages(3))
    with consuming() as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(SECONDS) == 0
    assert len(source.drain()) == 3


@pytest.mark.usefixtures("write_env_file")
def test_unwritten_message_stays_in_the_queue(config: BrokerConfig, source: Queue) -> None:
    publish(config, messages(1, b"1" * 1_000_000))
    with consuming() as process:
        assert process.stdout is not None
        # The pipe is full and is not read.
        assert select.select([process.stdout], [], [], SECONDS)[0]
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert len(source.drain()) == 1


@pytest.mark.usefixtures("write_env_file")
def test_consume_reports_a_full_disk(config: BrokerConfig, source: Queue) -> None:
    publish(config, messages(1))
    with Path("/dev/full").open("wb") as disk:
        done = subprocess.run(
            [*COMMAND, "consume"],
            stdout=disk,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert len(source.drain()) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"RABBITMQ_PASSWORD": "wr;o$ng"}, "refused to log in user"),
        ({"RABBITMQ_PORT": 1}, "nothing listens there"),
        ({"RABBITMQ_VHOST": "none"}, "create the virtual host"),
    ],
)
def test_consume_reports_why_it_cannot_connect(
    write_env_file: WriteEnvFile, settings: dict[str, object], words: str
) -> None:
    write_env_file(**settings)

    done = run("consume", status=1)

    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "wr;o$ng" not in done.stderr
    assert done.stdout == ""


@pytest.mark.usefixtures("write_env_file")
def test_consume_names_the_missing_right(
    config: BrokerConfig,
    source: Queue,
    rabbitmq_server: LocalRabbitMQ,
    write_env_file: WriteEnvFile,
) -> None:
    user, password = f"user {uuid4()}", 'p$a;s&"s w'
    publish(config, messages(1))
    rabbitmq_server.ctl("add_user", user, password)
    try:
        rabbitmq_server.ctl("set_permissions", user, "^$", "^$", "^$")
        write_env_file(RABBITMQ_USER=user, RABBITMQ_PASSWORD=password)
        done = run("consume", status=1)
    finally:
        rabbitmq_server.ctl("delete_user", user)
    assert f"user '{user}' may not read queue" in done.stderr
    assert source.count() == 1


@pytest.mark.parametrize("limit", ["0", "-1", "two"])
def test_invalid_limit_is_rejected(limit: str) -> None:
    assert (
        "allowed is a whole number, 1 or more" in run("consume", "--limit", limit, status=2).stderr
    )


def test_exec_passes_settings_literally(write_env_file: WriteEnvFile, tmp_path: Path) -> None:
    write_env_file(
        RABBITMQ_PASSWORD=NASTY, POSTGRES_HOST="[::1]", POSTGRES_USER="me", POSTGRES_PASSWORD=NASTY
    )
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"

    done = run("exec", "--", sys.executable, "-c", code, "--limit", NASTY, "--", "-h")

    environment, arguments = json.loads(done.stdout)
    assert environment["RABBITMQ_PASSWORD"] == NASTY
    assert environment["RABBITMQ_QUEUE"].startswith(NASTY)
    libpq = {"HOST": "::1", "PORT": "15432", "USER": "me", "DATABASE": "sim_pipeline"}
    for name, value in libpq.items():
        assert environment[f"PG{name}"] == value
    assert environment["PGPASSWORD"] == NASTY
    assert environment["PATH"] == os.environ["PATH"]
    assert arguments == ["--limit", NASTY, "--", "-h"]
    assert not (tmp_path / "owned").exists()


@pytest.mark.usefixtures("write_env_file")
@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["--", "sh", "-c", "exit 3"], 3, ""),
        (["sh", "-c", "exit 3"], 3, ""),
        # As if the reader of its output had gone.
        (["--", "sh", "-c", "kill -PIPE $$; exit 3"], -signal.SIGPIPE, ""),
        (["--", "no-such-command"], 127, "no-such-command: command not found"),
        (["--", "/"], 126, "/ cannot be run: "),
        (["--"], 2, "name a command"),
        ([], 2, "name a command"),
    ],
)
def test_exec_returns_the_status_of_its_command(
    command: list[str], status: int, words: str
) -> None:
    assert words in run("exec", *command, status=status).stderr


def test_reader_commands_create_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env.sample").write_text("RABBITMQ_PORT=1\n", encoding="utf-8")

    run("exec", "true")

    assert not (tmp_path / ".env").exists()
