"""Starts `dagster api grpc`, the code server, with run workers that are forked.

Dagster starts a new Python for each run. Its imports take 1.6 s of CPU time, more than a small run,
and a backfill starts its runs one after the other. Here the first run starts a process that imports
the pipeline once and then only forks: multiprocessing's fork server. It is a process of its own
without connections, and its only threads are OpenBLAS's, which prepare for a fork themselves. So a
fork of it is safe. It ends with the code server and its last run; if it dies, the next run starts
another.
"""

import multiprocessing
import os
import tempfile
from typing import Any

from dagster._cli.api import api_cli
from dagster._grpc import server

from sim_pipeline.surroundings import secure_this_process

# The fork server listens on a socket in a folder that it creates for temporary files. With a longer
# path, the name of the socket would exceed the limit of 104 bytes (macOS; 108 on Linux).
_LONGEST_TEMPORARY_PATH = 70
# Not the definitions: each run reads the settings and the profiles itself.
_PRELOADED = [
    "sim_pipeline.dagster_instance.code_server",
    "sim_pipeline.dagster_instance.storage",
    "sim_pipeline.feed.inputs",
    "sim_pipeline.feed.publish",
    "sim_pipeline.feed.simulate",
]


class _ForkingServer(server.DagsterApiServer):
    """Dagster's server, which forks its run workers. With a long TMPDIR, it starts new Pythons."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TEMPORARY_PATH:
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        vars(self)["_mp_ctx"] = context


# Dagster's command imports it by this name and has no parameter for another one.
vars(server)["DagsterApiServer"] = _ForkingServer

if __name__ == "__main__":
    secure_this_process()
    api_cli()
