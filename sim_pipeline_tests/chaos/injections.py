"""The faults: each strikes at a moment that its random numbers choose, and is healed when it ends.

A fault that a supervisor would answer by a restart (of the service, of a server) is healed by that
restart.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from threading import Event
from typing import Final

import psutil

from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline_tests.chaos.environment import Site, pause
from sim_pipeline_tests.support.tcp_proxy import Direction, Tap, TcpProxy

Fault = Callable[[Site, Random], None]

# To the next tick, at the most, and some to spare for it to launch a run.
_TICK_SECONDS: Final = 90.0
# A run of a tick takes so long, after its process has got ready, which takes longer.
_RUN_SECONDS: Final = 3.0
_READY_SECONDS: Final = 10.0
# What a tick's run gives the proxies to carry, roughly: the rows and then the messages of a minute.
_BYTES_OF_ROWS: Final = range(900_000)
_BYTES_OF_MESSAGES: Final = range(1_500_000)
# Once a publisher has sent so much it is in the midst of its messages, and what the broker answers
# from then on are confirms.
_BYTES_SENT: Final = 50_000
_BYTES_OF_CONFIRMS: Final = range(100)
# Lower and higher than what any disk has free.
_USUAL_FREE, _ALARMING_FREE = "50MB", "1000000GB"


def _in_a_run(site: Site, draw: Random) -> None:
    """Wait for a run, and for a moment of it: while it gets ready, or while it works."""
    site.await_worker(_TICK_SECONDS)
    if draw.random() < 0.3:
        pause(draw.uniform(0, _READY_SECONDS))
    else:
        site.await_started_run(_TICK_SECONDS)
        pause(draw.uniform(0, _RUN_SECONDS))


def kill_run_worker(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    _kill_workers(site)


def _kill_workers(site: Site) -> None:
    for worker in site.workers():
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def kill_run_worker_amid_confirms(site: Site, draw: Random) -> None:
    left, confirming, killed = draw.randrange(3), Event(), Event()

    def hold_a_confirm(way: Direction, _: bytes) -> None:
        nonlocal left
        if way is Direction.TO_CLIENT and publishing.is_set():
            left -= 1
            if left < 0:
                confirming.set()
                killed.wait(_RUN_SECONDS)

    with _publishing(site, hold_a_confirm) as publishing:
        confirming.wait(_TICK_SECONDS)
        _kill_workers(site)
        killed.set()


def reset_amid_confirms(site: Site, draw: Random) -> None:
    with _publishing(site) as publishing:
        publishing.wait(_TICK_SECONDS)
        site.to_rabbitmq.reset_after(draw.choice(_BYTES_OF_CONFIRMS), Direction.TO_CLIENT)
        pause(_RUN_SECONDS)
    site.to_rabbitmq.heal()


@contextmanager
def _publishing(site: Site, then: Tap | None = None) -> Iterator[Event]:
    """Tell, by an event, when a publisher is at its messages; look at what flows from then on."""
    sent, begun = 0, Event()

    def count(way: Direction, data: bytes) -> None:
        nonlocal sent
        if way is Direction.TO_SERVER:
            sent += len(data)
            if sent > _BYTES_SENT:
                begun.set()
        if then is not None:
            then(way, data)

    site.to_rabbitmq.tap = count
    try:
        yield begun
    finally:
        site.to_rabbitmq.tap = None


def kill_daemon(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    site.kill("sim_pipeline.dagster_instance.daemon")


def kill_code_server(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    site.kill("grpc")


def kill_service(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    site.kill_service()


def _crash(site: Site, draw: Random, *servers: LocalServer) -> None:
    _in_a_run(site, draw)
    for server in servers:
        site.crash(server)
    pause(draw.uniform(0, 10))
    for server in servers:
        server.start()


def kill_postgres(site: Site, draw: Random) -> None:
    _crash(site, draw, site.postgres)


def kill_rabbitmq(site: Site, draw: Random) -> None:
    _crash(site, draw, site.rabbitmq)


def kill_both_servers(site: Site, draw: Random) -> None:
    _crash(site, draw, site.postgres, site.rabbitmq)


def restart_both_servers(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    for server in (site.postgres, site.rabbitmq):
        server.stop()
        server.start()


def _reset_after(site: Site, draw: Random, proxy: TcpProxy, way: Direction, counts: range) -> None:
    proxy.reset_after(draw.choice(counts), way)
    _in_a_run(site, draw)
    pause(_RUN_SECONDS)
    proxy.heal()


def reset_amid_copy(site: Site, draw: Random) -> None:
    _reset_after(site, draw, site.to_postgres, Direction.TO_SERVER, _BYTES_OF_ROWS)


def reset_amid_claim(site: Site, draw: Random) -> None:
    _reset_after(site, draw, site.to_postgres, Direction.TO_CLIENT, _BYTES_OF_MESSAGES)


def reset_amid_publish(site: Site, draw: Random) -> None:
    _reset_after(site, draw, site.to_rabbitmq, Direction.TO_SERVER, _BYTES_OF_MESSAGES)


def _refuse(site: Site, draw: Random, proxy: TcpProxy) -> None:
    _in_a_run(site, draw)
    proxy.refuse()
    proxy.reset()
    pause(draw.uniform(1, 30))
    proxy.heal()


def refuse_at_postgres(site: Site, draw: Random) -> None:
    _refuse(site, draw, site.to_postgres)


def refuse_at_rabbitmq(site: Site, draw: Random) -> None:
    _refuse(site, draw, site.to_rabbitmq)


def _half_open(site: Site, draw: Random, proxy: TcpProxy) -> None:
    _in_a_run(site, draw)
    proxy.half_open()
    pause(draw.uniform(1, 30))
    # Either what was held arrives after all, or the peers learn that it never will.
    if draw.random() < 0.5:
        proxy.reset()
    proxy.heal()


def half_open_to_postgres(site: Site, draw: Random) -> None:
    _half_open(site, draw, site.to_postgres)


def half_open_to_rabbitmq(site: Site, draw: Random) -> None:
    _half_open(site, draw, site.to_rabbitmq)


def delay_both(site: Site, draw: Random) -> None:
    for proxy in (site.to_postgres, site.to_rabbitmq):
        proxy.delay(draw.uniform(0, 0.05))
    _in_a_run(site, draw)
    for proxy in (site.to_postgres, site.to_rabbitmq):
        proxy.heal()


def alarm_the_brokers_disk(site: Site, draw: Random) -> None:
    pause(draw.uniform(0, 30))
    site.rabbitmq.ctl("set_disk_free_limit", _ALARMING_FREE)
    site.await_worker(_TICK_SECONDS)
    pause(draw.uniform(0, 40))
    site.rabbitmq.ctl("set_disk_free_limit", _USUAL_FREE)


# In an order in which the first few, which a short form plays, are of all sorts.
KINDS: Final[dict[str, Fault]] = {
    "worker killed amid confirms": kill_run_worker_amid_confirms,
    "PostgreSQL killed": kill_postgres,
    "RabbitMQ killed": kill_rabbitmq,
    "daemon killed": kill_daemon,
    "reset amid COPY": reset_amid_copy,
    "reset amid publish": reset_amid_publish,
    "run worker killed": kill_run_worker,
    "code server killed": kill_code_server,
    "disk alarm": alarm_the_brokers_disk,
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
