"""What the console shows of a log record: on a terminal, and in a pipe."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping

import pytest

SAYS = """
import logging, sys
from sim_pipeline.logs import GOOD_NEWS, ConsoleFormatter
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(ConsoleFormatter())
log = logging.getLogger("test")
log.setLevel("INFO")
log.addHandler(handler)
log.info("as usual, [red]not markup[/] " + "and long " * 20)
log.info("ready", extra=GOOD_NEWS)
log.warning("odd")
log.error("wrong")
"""
PLAIN = ["as usual, [red]not markup[/] " + "and long " * 20, "ready", "WARNING odd", "ERROR wrong"]


def said(stderr: int, variables: Mapping[str, str]) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"}
    }
    subprocess.run(
        [sys.executable, "-c", SAYS],
        env={**environment, "TERM": "xterm-256color", **variables},
        stderr=stderr,
        check=True,
    )


def on_a_terminal(**variables: str) -> list[str]:
    """The lines that a terminal is sent, each without its time."""
    ours, its = pty.openpty()
    said(its, variables)
    os.close(its)
    sent = b""
    try:
        while piece := os.read(ours, 65536):
            sent += piece
    except OSError:  # Linux' way to say that nobody has the other end any more
        pass
    finally:
        os.close(ours)
    return [
        line.replace(line[line.find(":") - 2 :][:9], "", 1) for line in sent.decode().splitlines()
    ]


def test_on_a_terminal_colours_tell_good_news_and_bad() -> None:
    assert on_a_terminal() == [
        PLAIN[0],
        "\x1b[32mready\x1b[0m",
        "\x1b[33mWARNING odd\x1b[0m",
        "\x1b[31mERROR wrong\x1b[0m",
    ]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(variables: dict[str, str]) -> None:
    assert on_a_terminal(**variables) == PLAIN


def test_in_a_pipe_there_are_none() -> None:
    reading, writing = os.pipe()
    said(writing, {})
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert [line.rstrip("\n")[9:] for line in pipe] == PLAIN
