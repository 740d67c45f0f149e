"""What a table of figures is headed with: the machine and the versions they were got on."""

import os
import platform
from importlib.metadata import version

_PACKAGES = ("dagster", "numpy", "pandas", "pyarrow", "sqlalchemy", "pika")


def header() -> str:
    """Return two lines: the machine, and the versions of what matters."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}\n{versions}"
    )
