"""The directory of a local server."""

import subprocess
import sys
from pathlib import Path

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.data_directory import ServiceDirectory
from sim_pipeline_tests.support.tmpfs import tmpfs


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    directory = ServiceDirectory("Name", tmp_path / "a" / "b")
    directory.take()
    directory.release()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_second_owner_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path\n"
        "from sim_pipeline.local_servers.data_directory import ServiceDirectory\n"
        "ServiceDirectory('Name', Path(sys.argv[1])).take() or print('taken', flush=True)\n"
        "sys.stdin.read()"
    )
    directory = ServiceDirectory("Name", tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        # Held by a variable of nobody, the lock has to live as long as the process.
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(ServiceError, match=f"in use by process {process.pid}: "):
            directory.take()
        assert not directory.is_held
        process.kill()
    directory.take()
    assert directory.is_held
    directory.release()


def test_a_full_disk_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "size=8m"):
        with pytest.raises(ServiceError, match=r"is full: \d+ MiB are free, 128 needed$"):
            ServiceDirectory("Name", tmp_path).take()
        assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(ServiceError, match=f"^Name: Not a directory: {in_the_way}/data$"):
        ServiceDirectory("Name", in_the_way / "data").take()
