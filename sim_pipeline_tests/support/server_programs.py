"""Run the tests with other PostgreSQL and RabbitMQ programs than those of this machine.

Two environment variables name folders of programs, such as /usr/lib/postgresql/17/bin and
/usr/lib/rabbitmq/bin. The first is for every server of the tests. The second is for those that the
tests start themselves; a service that they run uses the machine's RabbitMQ.
"""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from sim_pipeline.local_servers import rabbitmq_package
from sim_pipeline.local_servers.postgres import WHEEL

POSTGRES = "TEST_POSTGRES_BIN"
RABBITMQ = "TEST_RABBITMQ_BIN"

only_with_wheel = pytest.mark.skipif(
    POSTGRES in os.environ, reason=f"tests the PostgreSQL of the wheel, and {POSTGRES} is set"
)


def use_chosen_programs() -> None:
    """Use the programs that the environment names, in this process and in those that it starts.

    Raises:
        pytest.UsageError: a folder does not have them.
    """
    if POSTGRES in os.environ:
        _use_postgres(_folder(POSTGRES, "postgres", "initdb"))
    use_chosen_rabbitmq()


def use_chosen_rabbitmq() -> None:
    """Use the RabbitMQ that the environment names in this process."""
    if RABBITMQ in os.environ:
        scripts = _folder(RABBITMQ, "rabbitmq-server", "rabbitmqctl")
        rabbitmq_package._SCRIPT_DIRECTORIES = (str(scripts),)  # noqa: SLF001


def _folder(variable: str, *programs: str) -> Path:
    folder = Path(os.environ[variable])
    for program in programs:
        if not os.access(folder / program, os.X_OK):
            raise pytest.UsageError(
                f"{variable}={folder}: allowed is a folder with {' and '.join(programs)}"
            )
    return folder.resolve()


def _use_postgres(programs: Path) -> None:
    """Put a package with the wheel's name before the wheel, with a link to the programs."""
    site = Path(tempfile.mkdtemp(prefix="sim_pipeline-programs-"))
    atexit.register(shutil.rmtree, site)
    site.chmod(0o755)  # PostgreSQL may run as another user
    package = site / WHEEL
    (package / "pginstall").mkdir(parents=True)
    (package / "pginstall" / "bin").symlink_to(programs)
    (package / "__init__.py").touch()
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), inherited]))
