"""Free ports that no other test process on this machine uses."""

import socket
from itertools import cycle

from sim_pipeline.local_servers.ports import is_free

# The pipeline takes its own free ports from 20000 on.
_PORTS = range(16_000, 20_000)
_PORTS_PER_PROCESS = 250


def _reserve() -> tuple[socket.socket, range]:
    """Return ports for this process, so that a server can be started again on the same port.

    A socket bound to the first of them reserves the others until this process ends.
    """
    for first in _PORTS[::_PORTS_PER_PROCESS]:
        mark = socket.socket()
        try:
            mark.bind(("127.0.0.1", first))
        except OSError:
            mark.close()
        else:
            return mark, range(first + 1, first + _PORTS_PER_PROCESS)
    raise RuntimeError(f"other processes use all of {_PORTS}")


_mark, _own = _reserve()
_next = cycle(_own)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a free port that this process has not returned before, or long ago."""
    for _ in _own:
        port = next(_next)
        if is_free(port, host):
            return port
    raise RuntimeError(f"no port of {_own} is free on {host}")
