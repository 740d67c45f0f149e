"""When pika's log messages are silenced."""

import logging
import threading
from collections.abc import Iterator

import pytest

from sim_pipeline.broker.pika_logging import quiet_pika

PIKA = logging.getLogger("pika")
INNER = logging.getLogger("pika.adapters.utils.connection_workflow")


@pytest.fixture(autouse=True)
def _level_restored() -> Iterator[None]:
    yield
    PIKA.setLevel(logging.NOTSET)


def test_pika_is_quiet_only_within_the_block() -> None:
    with quiet_pika():
        assert not INNER.isEnabledFor(logging.ERROR)
        assert INNER.isEnabledFor(logging.CRITICAL)
    assert INNER.isEnabledFor(logging.ERROR)
    assert PIKA.level == logging.NOTSET


def test_exception_ends_the_silence() -> None:
    with pytest.raises(ZeroDivisionError), quiet_pika():
        raise ZeroDivisionError
    assert PIKA.level == logging.NOTSET


def test_explicit_level_is_kept() -> None:
    PIKA.setLevel(logging.DEBUG)

    with quiet_pika():
        assert INNER.isEnabledFor(logging.DEBUG)
    assert PIKA.level == logging.DEBUG


def test_pika_is_quiet_until_the_last_block_ends() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with quiet_pika():
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    with quiet_pika():
        pass
    assert PIKA.level == logging.CRITICAL
    go_on.set()
    thread.join()
    assert PIKA.level == logging.NOTSET
