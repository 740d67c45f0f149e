"""The creation of `.env` in a fresh checkout."""

import stat
from pathlib import Path

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.service.env_file import ensure_env_file


def test_env_file_is_private_with_random_passwords(tmp_path: Path) -> None:
    (tmp_path / ".env.sample").write_text("A_PASSWORD=\nB_PASSWORD=mine\nC=1\n")
    file = ensure_env_file(tmp_path)
    assert file == tmp_path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first, *rest = file.read_text().splitlines()
    assert len(first.removeprefix("A_PASSWORD=")) == 32
    assert rest == ["B_PASSWORD=mine", "C=1"]
    assert ensure_env_file(tmp_path) is None


def test_env_file_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env.sample").touch()
    file = tmp_path / ".env"
    file.symlink_to("nowhere")
    with pytest.raises(ServiceError, match=f"^{file} cannot be created: File exists$"):
        ensure_env_file(tmp_path)
