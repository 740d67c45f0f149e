"""A directory for a server that a test starts."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sim_pipeline_tests.support.process_helpers import processes_of

AWKWARD = """Документы 100% $x it's #1 `"[*]{}\\;&"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for one server. The test fails if it leaves a process behind.

    The directory's name contains characters that shells and settings files interpret. It is outside
    pytest's own directory, which no other user may enter.
    """
    path = Path(tempfile.mkdtemp(prefix=f"sim pipeline {AWKWARD} ")).resolve()
    yield path
    left = processes_of(path)
    names = [process.name() for process in left]
    for process in left:
        process.kill()
    psutil.wait_procs(left)
    shutil.rmtree(path)
    assert names == []
