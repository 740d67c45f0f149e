"""Free ports of which no two are equal, in any of the test processes."""

import os
import random

from sim_pipeline.local_servers.ports import is_free

# The pipeline takes its own free ports from 20000 on. A part of these for each process of
# pytest-xdist, and one for pytest without it, so that a server that is stopped and started again
# finds its port free.
_PORTS = range(16_000, 20_000)
_PARTS = 8
_worker = os.environ.get("PYTEST_XDIST_WORKER", f"gw{_PARTS - 1}").removeprefix("gw")
_own = _PORTS[int(_worker) % _PARTS :: _PARTS]
# Another run of the tests on this machine begins at another port.
_next = random.SystemRandom().randrange(len(_own))


def free_port(host: str = "127.0.0.1") -> int:
    """Return a free port that this process has not returned before, or long ago."""
    global _next  # noqa: PLW0603 - the position in this process's ports
    for _ in _own:
        port = _own[_next]
        _next = (_next + 1) % len(_own)
        if is_free(port, host):
            return port
    raise RuntimeError(f"no port of {_own} is free on {host}")
