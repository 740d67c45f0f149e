"""The fault injections. Each starts at a random moment and is healed when its function returns.

Where a supervisor such as systemd would restart the service or a server, that restart is the
healing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from threading import Event
from time import sleep
from typing import Final

import psutil

from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline_tests.chaos.environment import Environment
from sim_pipeline_tests.support.tcp_proxy import Direction, Tap, TcpProxy

Injection = Callable[[Environment, Random], None]

# At most the time to the next tick, and a margin for launching its run.
_TICK_SECONDS: Final = 90.0
# The steps of a tick's run take this long. Its process needs longer before that, to get ready.
_RUN_SECONDS: Final = 3.0
_READY_SECONDS: Final = 10.0
# Roughly the bytes of a tick's run: the rows and the messages of one minute.
_BYTES_OF_ROWS: Final = range(900_000)
_BYTES_OF_MESSAGES: Final = range(1_500_000)
# After this many bytes the publisher is sending messages, and the broker's answers are confirms.
_BYTES_SENT: Final = 50_000
_BYTES_OF_CONFIRMS: Final = range(100)
# Disk limits below and above the free space of any disk.
_LOW_DISK_LIMIT, _HIGH_DISK_LIMIT = "50MB", "1000000GB"


def _await_random_moment_of_run(environment: Environment, draw: Random) -> None:
    """Wait for a random moment of a run: while its process gets ready, or during its steps."""
    environment.await_worker(_TICK_SECONDS)
    if draw.random() < 0.3:
        sleep(draw.uniform(0, _READY_SECONDS))
    else:
        environment.await_started_run(_TICK_SECONDS)
        sleep(draw.uniform(0, _RUN_SECONDS))


def kill_run_worker(environment: Environment, draw: Random) -> None:
    _await_random_moment_of_run(environment, draw)
    _kill_workers(environment)


def _kill_workers(environment: Environment) -> None:
    for worker in environment.workers():
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def kill_run_worker_amid_confirms(environment: Environment, draw: Random) -> None:
    left, confirming, killed = draw.randrange(3), Event(), Event()

    def hold_a_confirm(way: Direction, _: bytes) -> None:
        nonlocal left
        if way is Direction.TO_CLIENT and publishing.is_set():
            left -= 1
            if left < 0:
                confirming.set()
                killed.wait(_RUN_SECONDS)

    with _publishing(environment, hold_a_confirm) as publishing:
        confirming.wait(_TICK_SECONDS)
        _kill_workers(environment)
        killed.set()


def reset_amid_confirms(environment: Environment, draw: Random) -> None:
    with _publishing(environment) as publishing:
        publishing.wait(_TICK_SECONDS)
        environment.rabbitmq_proxy.reset_after(draw.choice(_BYTES_OF_CONFIRMS), Direction.TO_CLIENT)
        sleep(_RUN_SECONDS)
    environment.rabbitmq_proxy.heal()


@contextmanager
def _publishing(environment: Environment, then: Tap | None = None) -> Iterator[Event]:
    """Yield an event that is set once a publisher sends messages; call `then` for each chunk."""
    sent, begun = 0, Event()

    def count(way: Direction, data: bytes) -> None:
        nonlocal sent
        if way is Direction.TO_SERVER:
            sent += len(data)
            if sent > _BYTES_SENT:
                begun.set()
        if then is not None:
            then(way, data)

    environment.rabbitmq_proxy.tap = count
    try:
        yield begun
    finally:
        environment.rabbitmq_proxy.tap = None


def kill_daemon(environment: Environment, draw: Random) -> None:
    _await_random_moment_of_run(environment, draw)
    environment.kill("sim_pipeline.dagster_instance.daemon")


def kill_code_server(environment: Environment, draw: Random) -> None:
    _await_random_moment_of_run(environment, draw)
    environment.kill("grpc")


def kill_service(environment: Environment, draw: Random) -> None:
    _await_random_moment_of_run(environment, draw)
    environment.kill_service()


def _crash(environment: Environment, draw: Random, *servers: LocalServer) -> None:
    _await_random_moment_of_run(environment, draw)
    for server in servers:
        environment.crash(server)
    sleep(draw.uniform(0, 10))
    for server in servers:
        server.start()


def kill_postgres(environment: Environment, draw: Random) -> None:
    _crash(environment, draw, environment.postgres)


def kill_rabbitmq(environment: Environment, draw: Random) -> None:
    _crash(environment, draw, environment.rabbitmq)


def kill_both_servers(environment: Environment, draw: Random) -> None:
    _crash(environment, draw, environment.postgres, environment.rabbitmq)


def restart_both_servers(environment: Environment, draw: Random) -> None:
    _await_random_moment_of_run(environment, draw)
    for server in (environment.postgres, environment.rabbitmq):
        server.stop()
        server.start()


def _reset_after(
    environment: Environment, draw: Random, proxy: TcpProxy, way: Direction, counts: range
) -> None:
    proxy.reset_after(draw.choice(counts), way)
    _await_random_moment_of_run(environment, draw)
    sleep(_RUN_SECONDS)
    proxy.heal()


def reset_amid_copy(environment: Environment, draw: Random) -> None:
    _reset_after(environment, draw, environment.postgres_proxy, Direction.TO_SERVER, _BYTES_OF_ROWS)


def reset_amid_claim(environment: Environment, draw: Random) -> None:
    _reset_after(
        environment, draw, environment.postgres_proxy, Direction.TO_CLIENT, _BYTES_OF_MESSAGES
    )


def reset_amid_publish(environment: Environment, draw: Random) -> None:
    _reset_after(
        environment, draw, environment.rabbitmq_proxy, Direction.TO_SERVER, _BYTES_OF_MESSAGES
    )


def _refuse(environment: Environment, draw: Random, proxy: TcpProxy) -> None:
    _await_random_moment_of_run(environment, draw)
    proxy.refuse()
    proxy.reset()
    sleep(draw.uniform(1, 30))
    proxy.heal()


def refuse_at_postgres(environment: Environment, draw: Random) -> None:
    _refuse(environment, draw, environment.postgres_proxy)


def refuse_at_rabbitmq(environment: Environment, draw: Random) -> None:
    _refuse(environment, draw, environment.rabbitmq_proxy)


def _half_open(environment: Environment, draw: Random, proxy: TcpProxy) -> None:
    _await_random_moment_of_run(environment, draw)
    proxy.half_open()
    sleep(draw.uniform(1, 30))
    # Either the held bytes arrive late, or the peers see a reset.
    if draw.random() < 0.5:
        proxy.reset()
    proxy.heal()


def half_open_to_postgres(environment: Environment, draw: Random) -> None:
    _half_open(environment, draw, environment.postgres_proxy)


def half_open_to_rabbitmq(environment: Environment, draw: Random) -> None:
    _half_open(environment, draw, environment.rabbitmq_proxy)


def delay_both(environment: Environment, draw: Random) -> None:
    for proxy in (environment.postgres_proxy, environment.rabbitmq_proxy):
        proxy.delay(draw.uniform(0, 0.05))
    _await_random_moment_of_run(environment, draw)
    for proxy in (environment.postgres_proxy, environment.rabbitmq_proxy):
        proxy.heal()


def raise_disk_alarm(environment: Environment, draw: Random) -> None:
    sleep(draw.uniform(0, 30))
    environment.rabbitmq.ctl("set_disk_free_limit", _HIGH_DISK_LIMIT)
    environment.await_worker(_TICK_SECONDS)
    sleep(draw.uniform(0, 40))
    environment.rabbitmq.ctl("set_disk_free_limit", _LOW_DISK_LIMIT)


# Ordered so that the first few, which are all that a short session runs, are of different kinds.
INJECTIONS: Final[dict[str, Injection]] = {
    "worker killed amid confirms": kill_run_worker_amid_confirms,
    "PostgreSQL killed": kill_postgres,
    "RabbitMQ killed": kill_rabbitmq,
    "daemon killed": kill_daemon,
    "reset amid COPY": reset_amid_copy,
    "reset amid publish": reset_amid_publish,
    "run worker killed": kill_run_worker,
    "code server killed": kill_code_server,
    "disk alarm": raise_disk_alarm,
    "whole service killed": kill_service,
    "reset amid claim": reset_amid_claim,
    "reset amid confirms": reset_amid_confirms,
    "both servers killed": kill_both_servers,
    "both servers restarted": restart_both_servers,
    "PostgreSQL refuses": refuse_at_postgres,
    "RabbitMQ refuses": refuse_at_rabbitmq,
    "PostgreSQL half-open": half_open_to_postgres,
    "RabbitMQ half-open": half_open_to_rabbitmq,
    "delay on both": delay_both,
}
