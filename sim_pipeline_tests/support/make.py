"""Run `make` as from a shell, even when `make` started the tests."""

import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_SET_BY_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def make(
    *arguments: str, directory: Path = PROJECT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `make ARGUMENTS` in the directory, with these additional environment variables."""
    shell = {name: value for name, value in os.environ.items() if name not in _SET_BY_MAKE}
    return subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env={**shell, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
