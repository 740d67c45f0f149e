"""make, called as from a shell, also where make has started the tests."""

import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_MAKES_OWN = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def make(
    *arguments: str, directory: Path = PROJECT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Return what became of `make ARGUMENTS` in the directory, with these variables set as well."""
    shell = {name: value for name, value in os.environ.items() if name not in _MAKES_OWN}
    return subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env={**shell, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
