"""Finds the project files that the package reads: beside it in a checkout, inside it in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def project_file(name: str) -> Path:
    """Return the path of a file or folder from the top of the repository.

    Args:
        name: its name there, such as `dagster.yaml`.
    """
    installed = _PACKAGE / "project" / name
    return installed if installed.exists() else _PACKAGE.parent / name
