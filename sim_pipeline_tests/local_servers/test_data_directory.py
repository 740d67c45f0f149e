"""The data directory of a local server and its lock."""

import subprocess
import sys
from pathlib import Path

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.data_directory import ServiceDirectory
from sim_pipeline_tests.support.tmpfs import tmpfs


def test_directory_is_private_to_its_owner(tmp_path: Path) -> None:
    directory = ServiceDirectory("Name", tmp_path / "a" / "b")
    directory.acquire()
    directory.release()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_second_owner_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path\n"
        "from sim_pipeline.local_servers.data_directory import ServiceDirectory\n"
        "ServiceDirectory('Name', Path(sys.argv[1])).acquire() or print('acquired', flush=True)\n"
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
        # No variable refers to the lock; it must live as long as the process.
        assert process.stdout.readline() == "acquired\n"
        with pytest.raises(ServiceError, match=f"in use by process {process.pid}; "):
            directory.acquire()
        assert not directory.is_held
        process.kill()
    directory.acquire()
    assert directory.is_held
    directory.release()


def test_full_disk_is_reported_before_writing(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "size=8m"):
        with pytest.raises(ServiceError, match=r"is full: \d+ MiB are free, 128 are needed$"):
            ServiceDirectory("Name", tmp_path).acquire()
        assert list(tmp_path.iterdir()) == []


def test_path_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(ServiceError, match=f"^Name: Not a directory: {in_the_way}/data$"):
        ServiceDirectory("Name", in_the_way / "data").acquire()
