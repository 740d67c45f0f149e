"""The faults: each strikes at a moment that its random numbers choose, and is healed when it ends.

A fault that a supervisor would answer by a restart (of the service, of a server) is healed by that
restart.
"""

from collections.abc import Callable
from random import Random
from typing import Final

import psutil

from sim_pipeline.service.server import LocalServer
from sim_pipeline_tests.faults.site import Site, pause
from sim_pipeline_tests.tcp_proxy import Direction, TcpProxy

Fault = Callable[[Site, Random], None]

# A run of a tick, from the start of its process to its end, takes about so long.
_RUN_SECONDS: Final = 5.0
# What goes through the proxies in a tick's run: the rows and messages of a minute.
_BYTES_OF_A_RUN: Final = 1_500_000
_BYTES_OF_CONFIRMS: Final = 2_000
# Lower and higher than what any disk has free.
_USUAL_FREE, _ALARMING_FREE = "50MB", "1000000GB"


def _in_a_run(site: Site, draw: Random) -> None:
    """Wait for a run, and for a moment of it or soon after."""
    site.await_worker()
    pause(draw.uniform(0, _RUN_SECONDS))


def kill_run_worker(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    for worker in site.workers():
        try:
            worker.kill()
        except psutil.NoSuchProcess:
            continue


def kill_daemon(site: Site, draw: Random) -> None:
    _in_a_run(site, draw)
    site.kill("dagster._daemon")


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


def _reset_after(site: Site, draw: Random, proxy: TcpProxy, way: Direction, count: int) -> None:
    proxy.reset_after(draw.randrange(count), way)
    _in_a_run(site, draw)
    proxy.heal()


def reset_amid_copy(site: Site, draw: Random) -> None:
    _reset_after(site, draw, site.to_postgres, Direction.TO_SERVER, _BYTES_OF_A_RUN)


def reset_amid_publish(site: Site, draw: Random) -> None:
    _reset_after(site, draw, site.to_rabbitmq, Direction.TO_SERVER, _BYTES_OF_A_RUN)


def reset_amid_confirms(site: Site, draw: Random) -> None:
    _reset_after(site, draw, site.to_rabbitmq, Direction.TO_CLIENT, _BYTES_OF_CONFIRMS)


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
    site.await_worker()
    pause(draw.uniform(0, 40))
    site.rabbitmq.ctl("set_disk_free_limit", _USUAL_FREE)


KINDS: Final[dict[str, Fault]] = {
    "run worker killed": kill_run_worker,
    "daemon killed": kill_daemon,
    "code server killed": kill_code_server,
    "whole service killed": kill_service,
    "PostgreSQL killed": kill_postgres,
    "RabbitMQ killed": kill_rabbitmq,
    "both servers killed": kill_both_servers,
    "both servers restarted": restart_both_servers,
    "reset amid COPY": reset_amid_copy,
    "reset amid publish": reset_amid_publish,
    "reset amid confirms": reset_amid_confirms,
    "PostgreSQL refuses": refuse_at_postgres,
    "RabbitMQ refuses": refuse_at_rabbitmq,
    "PostgreSQL half-open": half_open_to_postgres,
    "RabbitMQ half-open": half_open_to_rabbitmq,
    "delay on both": delay_both,
    "disk alarm": alarm_the_brokers_disk,
}
