"""Run `make` as from a shell, even when `make` started the tests."""

import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_SET_BY_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def make(
    *arguments: str, directory: Path = PROJECT, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `make ARGUMENTS` in the directory, with these additional environment variables.

    Args:
        arguments: targets and variables.
        directory: the working directory.
        typed: what a person types in; nothing by default.
        environment: additional environment variables.
    """
    shell = {name: value for name, value in os.environ.items() if name not in _SET_BY_MAKE}
    return subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env={**shell, **environment},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )
