"""Find the processes of a directory, and start servers whose owner dies."""

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil

from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline_tests.support.server_programs import use_chosen_rabbitmq

_START_SECONDS = 120


def processes_of(directory: Path) -> list[psutil.Process]:
    """Find every process whose working directory or command line is in the directory."""
    found = []
    # Not the objects of an earlier iteration: their pids may belong to other processes.
    psutil.process_iter.cache_clear()
    for process in psutil.process_iter():
        try:
            works_there = Path(process.cwd()).is_relative_to(directory)
            if works_there or any(str(directory) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def start_and_lose_owner(server: LocalServer) -> None:
    """Start a server from another process and kill that process; the server keeps running."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    owner = context.Process(target=_start_and_wait, args=(server, started))
    owner.start()
    assert started.wait(_START_SECONDS)
    owner.kill()
    owner.join()


def _start_and_wait(server: LocalServer, started: Event) -> None:
    use_chosen_rabbitmq()
    server.start()
    started.set()
    while True:
        multiprocessing.Event().wait()
