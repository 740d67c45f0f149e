"""Rounds of faults: nothing is lost, nothing is stored twice, whatever was killed or cut.

Each round has a seed. It says which fault comes, at which moment and for how long; the same seed
again is the same fault, though the feed may be elsewhere when it strikes. After it is healed the
feed has two ticks to be whole again.

FAULT_ROUNDS is how many rounds, FAULT_SEED the first one's seed, and FAULT_FEEDS how many feeds,
each with servers of its own, play them side by side.
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

from sim_pipeline_tests.chaos.environment import INTERVAL_SECONDS, Site, pause
from sim_pipeline_tests.chaos.injections import KINDS
from sim_pipeline_tests.chaos.invariants import delivered, faults_found

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))
FEEDS = min(ROUNDS, int(os.environ.get("FAULT_FEEDS", "3")))
FIRST_SEED = int(os.environ.get("FAULT_SEED", "0"))

_TICKS_ALLOWED = 2
# A run that hangs is found by Dagster's monitoring; what hangs longer than this is lost.
_STUCK_SECONDS = 400
_LOOK_SECONDS = 0.25
# For the start of the servers, and for each round.
_TIMEOUT = 300 + 500 * -(-ROUNDS // FEEDS)


@dataclass(frozen=True)
class Round:
    """What a round was, and what it took to heal.

    Attributes:
        kind: of the fault.
        ticks: how many ticks after the healing it took.
        resent: messages published a second time.
        restarts: how often the service had to be started anew.
        windows: windows of a model checked at its end.
    """

    seed: int
    kind: str
    ticks: int
    resent: int
    restarts: int
    windows: int


@pytest.mark.timeout(_TIMEOUT)
def test_a_feed_is_whole_after_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201 - rounds take minutes: somebody is watching

    say(f"\n{ROUNDS} rounds on {FEEDS} feeds, seeds from {FIRST_SEED}")
    seeds = range(FIRST_SEED, FIRST_SEED + ROUNDS)
    stop = threading.Event()
    with ThreadPoolExecutor(FEEDS) as pool:
        feeds = [pool.submit(_play_all, seeds[first::FEEDS], say, stop) for first in range(FEEDS)]
        try:
            rounds = [one for feed in as_completed(feeds) for one in feed.result()]
        finally:
            stop.set()
    say(_table(rounds))
    assert len(rounds) == ROUNDS


def _play_all(
    seeds: Sequence[int], say: Callable[[str], None], stop: threading.Event
) -> list[Round]:
    """Play rounds on a feed of their own, until one fails or elsewhere one has failed."""
    rounds = []
    with _directory() as directory, Site(directory) as site:
        checked = site.began
        for seed in seeds:
            if stop.is_set():
                break
            kind = list(KINDS)[seed % len(KINDS)]
            say(f"seed {seed}: {kind}")
            one, checked = _play(site, seed, kind, checked)
            say(
                f"seed {seed}: {kind}: whole after {one.ticks} ticks,"
                f" {one.resent} messages sent again"
            )
            rounds.append(one)
        assert faults_found(site, site.began, checked) == []
    return rounds


def _play(site: Site, seed: int, kind: str, checked: datetime) -> tuple[Round, datetime]:
    """Let a fault strike, and wait until the feed has caught up with the moment it was healed."""
    resent, restarts = site.consumer.resent.total(), site.restarts
    KINDS[kind](site, random.Random(seed))  # noqa: S311 - faults, no secrets
    site.keep_service()
    healed = datetime.now(UTC)
    until = healed.replace(microsecond=0)
    deadline = time.monotonic() + _STUCK_SECONDS
    while not delivered(site, until):
        if site.keep_service():
            healed = datetime.now(UTC)
        ticks = site.ticks(healed)
        if ticks >= _TICKS_ALLOWED and not site.unfinished_runs() and not delivered(site, until):
            pytest.fail(f"seed {seed}, {kind}: {ticks} ticks: {faults_found(site, checked, until)}")
        if time.monotonic() > deadline:
            pytest.fail(f"seed {seed}, {kind}: stuck: {faults_found(site, checked, until)}")
        pause(_LOOK_SECONDS)
    ticks = site.ticks(healed)
    assert ticks <= _TICKS_ALLOWED, f"seed {seed}, {kind}"
    assert faults_found(site, checked, until) == [], f"seed {seed}, {kind}"
    windows = (until - checked) // timedelta(seconds=INTERVAL_SECONDS)
    return (
        Round(
            seed,
            kind,
            ticks,
            site.consumer.resent.total() - resent,
            site.restarts - restarts,
            windows,
        ),
        until,
    )


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory that is left where it is if anything in it went wrong."""
    # Not one of pytest's: those are closed to the user whom PostgreSQL may have to run as.
    path = Path(tempfile.mkdtemp(prefix="sim_pipeline-faults-")).resolve()
    try:
        yield path
    except BaseException as error:
        error.add_note(f"what the feed has left behind is in {path}")
        raise
    shutil.rmtree(path)


def _table(rounds: Sequence[Round]) -> str:
    head = ("fault", "rounds", "ticks to heal", "re-sent", "restarts", "windows")
    lines: list[tuple[str, ...]] = [head]
    for kind in KINDS:
        of_kind = [one for one in rounds if one.kind == kind]
        if of_kind:
            lines.append((kind, *_sums(of_kind)))
    lines.append(("all", *_sums(rounds)))
    return "\n".join(
        f"{line[0]:24}" + "".join(f"{word:>15}" for word in line[1:]) for line in lines
    )


def _sums(rounds: Sequence[Round]) -> tuple[str, ...]:
    ticks = sorted(one.ticks for one in rounds)
    return (
        str(len(rounds)),
        f"{ticks[0]} to {ticks[-1]}",
        str(sum(one.resent for one in rounds)),
        str(sum(one.restarts for one in rounds)),
        str(sum(one.windows for one in rounds)),
    )
