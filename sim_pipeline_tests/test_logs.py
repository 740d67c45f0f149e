"""Console log lines on a terminal and in a pipe."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping

import pytest

PROGRAM = """
import logging, sys
from sim_pipeline.logs import HIGHLIGHT, ConsoleFormatter
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(ConsoleFormatter())
log = logging.getLogger("test")
log.setLevel("INFO")
log.addHandler(handler)
log.info("as usual, [red]not markup[/] " + "and long " * 20)
log.info("ready", extra=HIGHLIGHT)
log.warning("odd")
log.error("wrong")
"""
PLAIN = ["as usual, [red]not markup[/] " + "and long " * 20, "ready", "WARNING odd", "ERROR wrong"]


def run_program(stderr: int, variables: Mapping[str, str]) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"}
    }
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "TERM": "xterm-256color", **variables},
        stderr=stderr,
        check=True,
    )


def on_a_terminal(**variables: str) -> list[str]:
    """Return the lines that the program writes to a terminal, without their time."""
    ours, theirs = pty.openpty()
    run_program(theirs, variables)
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 65536):
            sent += piece
    except OSError:  # on Linux, the other end is closed
        pass
    finally:
        os.close(ours)
    return [
        line.replace(line[line.find(":") - 2 :][:9], "", 1) for line in sent.decode().splitlines()
    ]


def test_terminal_shows_levels_in_colour() -> None:
    assert on_a_terminal() == [
        PLAIN[0],
        "\x1b[32mready\x1b[0m",
        "\x1b[33mWARNING odd\x1b[0m",
        "\x1b[31mERROR wrong\x1b[0m",
    ]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_disabled(variables: dict[str, str]) -> None:
    assert on_a_terminal(**variables) == PLAIN


def test_pipe_gets_no_colours() -> None:
    reading, writing = os.pipe()
    run_program(writing, {})
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert [line.rstrip("\n")[9:] for line in pipe] == PLAIN
