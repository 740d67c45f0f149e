"""Fault rounds: after every injection, no window is lost and none is stored twice.

The seed of a round determines the injection, its moment and its length. The same seed repeats the
same injection, but the feed may be at another point when it starts. After the fault is healed, the
feed must be complete again within two ticks.

Environment variables: FAULT_ROUNDS is the number of rounds, FAULT_SEED the seed of the first, and
FAULT_FEEDS the number of feeds, each with its own servers, that run rounds in parallel.
"""

import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sim_pipeline_tests.chaos.environment import INTERVAL_SECONDS, Environment
from sim_pipeline_tests.chaos.injections import INJECTIONS
from sim_pipeline_tests.chaos.invariants import delivered, find_violations

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))
FEEDS = min(ROUNDS, int(os.environ.get("FAULT_FEEDS", "3")))
FIRST_SEED = int(os.environ.get("FAULT_SEED", "0"))

_TICKS_ALLOWED = 2
# Dagster's run monitoring ends a run that hangs; after this time the feed counts as stuck.
_STUCK_SECONDS = 400
_POLL_SECONDS = 0.25
# Time to start the servers, and time for each round.
_TIMEOUT = 300 + 500 * -(-ROUNDS // FEEDS)


@dataclass(frozen=True)
class Round:
    """The result of a round.

    Attributes:
        seed: determines the injection and its moment.
        injection: its name.
        ticks: ticks between the healing and a complete feed.
        resent: messages that were published twice.
        restarts: how often the service was restarted.
        windows: windows of each model that were checked.
    """

    seed: int
    injection: str
    ticks: int
    resent: int
    restarts: int
    windows: int


@pytest.mark.timeout(_TIMEOUT)
def test_feed_is_complete_after_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201 - rounds take minutes, so show progress

    say(f"\n{ROUNDS} rounds on {FEEDS} feeds, seeds from {FIRST_SEED}")
    seeds = range(FIRST_SEED, FIRST_SEED + ROUNDS)
    stop = threading.Event()
    with ThreadPoolExecutor(FEEDS) as pool:
        feeds = [pool.submit(_run_rounds, seeds[first::FEEDS], say, stop) for first in range(FEEDS)]
        try:
            rounds = [result for feed in as_completed(feeds) for result in feed.result()]
        finally:
            stop.set()
    say(_table(rounds))
    assert len(rounds) == ROUNDS


def _run_rounds(
    seeds: Sequence[int], say: Callable[[str], None], stop: threading.Event
) -> list[Round]:
    """Run rounds on one feed, until a round on this or another feed fails."""
    rounds = []
    with _directory() as directory, Environment(directory) as environment:
        checked = environment.began
        for seed in seeds:
            if stop.is_set():
                break
            injection = list(INJECTIONS)[seed % len(INJECTIONS)]
            say(f"seed {seed}: {injection}")
            result, checked = _run_round(environment, seed, injection, checked)
            say(
                f"seed {seed}: {injection}: complete after {result.ticks} ticks,"
                f" {result.resent} messages sent again"
            )
            rounds.append(result)
        assert find_violations(environment, environment.began, checked) == []
    return rounds


def _run_round(
    environment: Environment, seed: int, injection: str, checked: datetime
) -> tuple[Round, datetime]:
    """Inject a fault, and wait until the feed has caught up with the time of the healing.

    Args:
        environment: the environment.
        seed: of the round.
        injection: its name.
        checked: windows that ended by then were checked by the rounds before.

    Returns:
        The result, and the time up to which windows are now checked.
    """
    resent, restarts = environment.consumer.resent.total(), environment.restarts
    INJECTIONS[injection](environment, random.Random(seed))  # noqa: S311 - not cryptographic
    environment.restart_service_if_ended()
    healed = datetime.now(UTC)
    until = healed.replace(microsecond=0)
    deadline = time.monotonic() + _STUCK_SECONDS
    while not delivered(environment, until):
        if environment.restart_service_if_ended():
            healed = datetime.now(UTC)
        ticks = environment.ticks(healed)
        if (
            ticks >= _TICKS_ALLOWED
            and not environment.unfinished_runs()
            and not delivered(environment, until)
        ):
            pytest.fail(
                f"seed {seed}, {injection}: after {ticks} ticks:"
                f" {find_violations(environment, checked, until)}"
            )
        if time.monotonic() > deadline:
            pytest.fail(
                f"seed {seed}, {injection}: stuck: {find_violations(environment, checked, until)}"
            )
        # Polls slowly: each query of the databases takes CPU time from the service under test.
        time.sleep(_POLL_SECONDS)
    ticks = environment.ticks(healed)
    assert ticks <= _TICKS_ALLOWED, f"seed {seed}, {injection}"
    assert find_violations(environment, checked, until) == [], f"seed {seed}, {injection}"
    windows = (until - checked) // timedelta(seconds=INTERVAL_SECONDS)
    return (
        Round(
            seed,
            injection,
            ticks,
            environment.consumer.resent.total() - resent,
            environment.restarts - restarts,
            windows,
        ),
        until,
    )


@contextmanager
def _directory() -> Iterator[Path]:
    """Create a temporary directory; delete it only if no error occurs."""
    # Not a directory of pytest's: PostgreSQL may run as a user that cannot enter those.
    path = Path(tempfile.mkdtemp(prefix="sim_pipeline-faults-")).resolve()
    try:
        yield path
    except BaseException as error:
        error.add_note(f"the feed's files are in {path}")
        raise
    shutil.rmtree(path)


def _table(rounds: Sequence[Round]) -> str:
    head = ("fault", "rounds", "ticks to heal", "re-sent", "restarts", "windows")
    lines: list[tuple[str, ...]] = [head]
    for name in INJECTIONS:
        of_name = [result for result in rounds if result.injection == name]
        if of_name:
            lines.append((name, *_sums(of_name)))
    lines.append(("all", *_sums(rounds)))
    return "\n".join(
        f"{line[0]:24}" + "".join(f"{word:>15}" for word in line[1:]) for line in lines
    )


def _sums(rounds: Sequence[Round]) -> tuple[str, ...]:
    ticks = sorted(result.ticks for result in rounds)
    return (
        str(len(rounds)),
        f"{ticks[0]} to {ticks[-1]}",
        str(sum(result.resent for result in rounds)),
        str(sum(result.restarts for result in rounds)),
        str(sum(result.windows for result in rounds)),
    )
