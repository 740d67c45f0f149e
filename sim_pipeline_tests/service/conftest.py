"""Directories for servers that the tests start themselves."""

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
    """A directory for one server, which has to have ended with all its processes.

    Its name has what names of directories may have, and a shell or a settings file reads
    otherwise. It is not in pytest's own, where no other user can get in.
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
