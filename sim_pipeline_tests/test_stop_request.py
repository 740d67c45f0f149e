"""The signals that request a stop."""

import os
import signal
from collections.abc import Iterator

import pytest

from sim_pipeline.stop_request import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_recorded(number: signal.Signals) -> None:
    stop = StopRequest(with_terminal=True)
    assert not stop
    os.kill(os.getpid(), number)
    assert stop.wait(60)


def test_end_of_the_terminal_is_left_to_others_by_default() -> None:
    before = signal.getsignal(signal.SIGHUP)
    StopRequest()
    assert signal.getsignal(signal.SIGHUP) is before


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    StopRequest(with_terminal=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
