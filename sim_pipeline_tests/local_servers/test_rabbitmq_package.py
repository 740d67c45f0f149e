"""RabbitMQ's programs on this machine."""

import os
from pathlib import Path

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers import rabbitmq_package
from sim_pipeline.local_servers.rabbitmq_package import (
    RabbitMQPrograms,
    ensure_installed,
    find_programs,
)


def install_in(directory: Path, *names: str) -> None:
    for name in names:
        program = directory / name
        program.touch()
        program.chmod(0o755)


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of programs, the only one on this machine's PATH."""
    monkeypatch.setattr(rabbitmq_package, "_SCRIPT_DIRECTORIES", ())
    monkeypatch.setattr(rabbitmq_package, "_SEARCH_DIRECTORIES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_programs_are_found_on_the_path(bare_machine: Path) -> None:
    install_in(bare_machine, "erl", "epmd", "rabbitmq-server", "rabbitmqctl")
    programs = find_programs()
    assert programs is not None
    assert programs.server == bare_machine / "rabbitmq-server"
    assert programs.ctl == bare_machine / "rabbitmqctl"
    assert programs.epmd == bare_machine / "epmd"


def test_programs_are_found_through_a_link(bare_machine: Path) -> None:
    unpacked = bare_machine / "rabbitmq_server-4.0.0" / "sbin"
    unpacked.mkdir(parents=True)
    install_in(bare_machine, "erl", "epmd")
    install_in(unpacked, "rabbitmq-server", "rabbitmqctl")
    (bare_machine / "rabbitmq-server").symlink_to(unpacked / "rabbitmq-server")
    programs = find_programs()
    assert programs is not None
    assert programs.ctl == unpacked / "rabbitmqctl"


@pytest.mark.parametrize(
    ("plugins", "version"),
    [(["rabbit-4.0.5", "rabbit_common-5.0.0"], 4), (["rabbit-10.1.0.ez"], 10), ([], 0)],
)
def test_major_version_is_read_from_the_folder(
    tmp_path: Path, plugins: list[str], version: int
) -> None:
    unpacked, link = tmp_path / "rabbitmq_server", tmp_path / "bin"
    for name in ("sbin", "plugins"):
        (unpacked / name).mkdir(parents=True)
    for plugin in plugins:
        (unpacked / "plugins" / plugin).touch()
    link.symlink_to(unpacked / "sbin")
    programs = RabbitMQPrograms(link / "rabbitmq-server", link / "rabbitmqctl", link / "epmd", "")
    assert programs.major_version() == version


def test_programs_need_erlang(bare_machine: Path) -> None:
    install_in(bare_machine, "rabbitmq-server", "rabbitmqctl")
    assert find_programs() is None


@pytest.mark.usefixtures("bare_machine")
def test_error_says_what_to_install() -> None:
    with pytest.raises(
        ServiceError, match=r"^RabbitMQ is not installed: install .*rabbitmq-server"
    ):
        ensure_installed()


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user: Homebrew refuses root")
def test_homebrew_installs_rabbitmq(bare_machine: Path) -> None:
    brew = bare_machine / "brew"
    install_in(bare_machine, "brew")
    brew.write_text(
        "#!/bin/sh\n"
        '[ "$*" = "install rabbitmq" ] || exit 1\n'
        f"cd '{bare_machine}'\n"
        "for name in erl epmd rabbitmq-server rabbitmqctl; do\n"
        '  : > "$name"; /bin/chmod 755 "$name"\n'
        "done\n"
    )
    assert ensure_installed().server == bare_machine / "rabbitmq-server"


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user: Homebrew refuses root")
def test_installation_error_quotes_the_installer(bare_machine: Path) -> None:
    brew = bare_machine / "brew"
    install_in(bare_machine, "brew")
    brew.write_text("#!/bin/sh\necho 'Error: no network'\necho 'see the log'\nexit 1\n")
    with pytest.raises(ServiceError, match=r"^RabbitMQ: brew failed \(Error: no network\): "):
        ensure_installed()
