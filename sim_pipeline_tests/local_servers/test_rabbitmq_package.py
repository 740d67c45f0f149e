"""RabbitMQ's programs on this machine."""

import os
from pathlib import Path

import pytest

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers import rabbitmq_package
from sim_pipeline.local_servers.rabbitmq_package import ensure_installed, find_programs


def install_in(directory: Path, *names: str) -> None:
    for name in names:
        program = directory / name
        program.touch()
        program.chmod(0o755)


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing but one directory of programs, which it returns."""
    monkeypatch.setattr(rabbitmq_package, "_SCRIPT_DIRECTORIES", ())
    monkeypatch.setattr(rabbitmq_package, "_SEARCH_DIRECTORIES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_it_is_found_anywhere_on_the_path(bare_machine: Path) -> None:
    install_in(bare_machine, "erl", "epmd", "rabbitmq-server", "rabbitmqctl")
    programs = find_programs()
    assert programs is not None
    assert programs.server == bare_machine / "rabbitmq-server"
    assert programs.ctl == bare_machine / "rabbitmqctl"
    assert programs.epmd == bare_machine / "epmd"


def test_it_is_found_through_a_link_to_where_it_was_unpacked(bare_machine: Path) -> None:
    unpacked = bare_machine / "rabbitmq_server-4.0.0" / "sbin"
    unpacked.mkdir(parents=True)
    install_in(bare_machine, "erl", "epmd")
    install_in(unpacked, "rabbitmq-server", "rabbitmqctl")
    (bare_machine / "rabbitmq-server").symlink_to(unpacked / "rabbitmq-server")
    programs = find_programs()
    assert programs is not None
    assert programs.ctl == unpacked / "rabbitmqctl"


def test_it_is_not_there_without_erlang(bare_machine: Path) -> None:
    install_in(bare_machine, "rabbitmq-server", "rabbitmqctl")
    assert find_programs() is None


@pytest.mark.usefixtures("bare_machine")
def test_where_nothing_can_install_it_one_line_says_what_to_install() -> None:
    with pytest.raises(
        ServiceError, match=r"^RabbitMQ is not installed: install .*rabbitmq-server"
    ):
        ensure_installed()


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user: Homebrew refuses root")
def test_homebrew_installs_it(bare_machine: Path) -> None:
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
def test_a_failing_installation_is_told_with_its_last_words(bare_machine: Path) -> None:
    brew = bare_machine / "brew"
    install_in(bare_machine, "brew")
    brew.write_text("#!/bin/sh\necho 'Error: no network'\necho 'see the log'\nexit 1\n")
    with pytest.raises(ServiceError, match=r"^RabbitMQ: brew failed \(Error: no network\): "):
        ensure_installed()
