"""Score the check `p50_regression` against the simulated events, as `score` does any detector.

    python -m benchmarks.detectors [--seeds 101 102 ...] [--models GPT-4o ...] [--days 365]

It simulates hourly windows of 5 points, runs the check after each hour on the eight days that a
comparison reads, and scores what it reports with the defaults of `python -m sim_pipeline score`. An
alarm's time is the end of the hour. It needs no server, and takes about a minute for each seed.

It prints Markdown tables with the median and the range over the seeds. The column *by chance* has
the figures of the same alarms at other times: `MOVED` later, those of the end at the start. In
contrast to benchmarks/regressions.py, events are those that the simulator has by itself.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np

from benchmarks.regressions import (
    FIRST,
    HOUR,
    READ,
    SEEDS,
    START,
    Flags,
    hourly_medians,
    run_check,
    spread,
)
from sim_pipeline.comparison.regressions import DISTANCES
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.feed.events import simulated_event
from sim_pipeline.markdown import literal, table
from sim_pipeline.scoring.score import (
    SIZES,
    Alarm,
    Counts,
    Detections,
    Group,
    Rule,
    Score,
    score,
)
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.events import events_between
from sim_pipeline.simulator.profiles import Profile

RULE: Final = Rule(grace=timedelta(hours=2), merge=timedelta(hours=2))
"""The defaults of `score` for hourly windows."""
MOVED: Final = 1 / 3
"""How far the alarms are moved, as a share of the scored period."""


@dataclass(frozen=True)
class Results:
    """The scores of one seed: of the check, and of the same alarms at other times."""

    check: Score
    chance: Score


def measure(profiles: Sequence[Profile], days: int, seed: int) -> Results:
    """Score the check on simulated series.

    Args:
        profiles: the endpoints, at least one.
        days: days in which the check runs.
        seed: the user's seed.
    """
    hours = FIRST + np.arange(READ + days * 24)
    series = np.stack([hourly_medians(profile, hours, seed) for profile in profiles])
    reported = run_check(series)
    since, until = START + timedelta(hours=READ), START + timedelta(hours=READ + days * 24)
    events = [
        simulated_event(profile.name, event)
        for profile in profiles
        for event in events_between(
            profile, float(hours[0] * HOUR), float((hours[-1] + 1) * HOUR), seed=seed
        )
    ]
    covered = {profile.name: [(since, until)] for profile in profiles}
    moved = np.roll(reported, round(MOVED * reported.shape[2]), axis=2)
    return Results(
        *(score(alarms_of(profiles, flags), events, covered, RULE) for flags in (reported, moved))
    )


def alarms_of(profiles: Sequence[Profile], reported: Flags) -> Iterator[Alarm]:
    """Yield an alarm for each report of `run_check`."""
    metrics = list(DISTANCES)
    for model, metric, check in np.argwhere(reported).tolist():
        time = START + timedelta(hours=READ + check + 1)
        yield Alarm(profiles[model].name, metrics[metric], time)


def markdown(results: Sequence[Results]) -> str:
    """Return the tables of alarms, events, metrics and models.

    Args:
        results: one per seed, at least one.
    """
    checks = [one.check for one in results]
    chances = [one.chance for one in results]
    totals = [one.overall for one in checks]
    moved = [one.overall for one in chances]
    alarm_rows = [
        ("alarms", *_counts([(one.alarms, one) for one in totals], [one.alarms for one in moved])),
        (
            "episodes",
            *_counts([(one.episodes, one) for one in totals], [one.episodes for one in moved]),
        ),
    ]
    every = _events([one.detections for one in totals], [one.detections for one in moved])
    event_rows = [("all", *every)]
    for key in sorted(
        {key for one in checks for key in one.kinds},
        key=lambda key: (RULE.kinds.index(key[0]), ["", *SIZES].index(key[1])),
    ):
        found, by_chance = (
            [one.kinds[key] for one in scores if key in one.kinds] for scores in (checks, chances)
        )
        event_rows.append((", ".join(filter(None, key)), *_events(found, by_chance)))
    metric_rows = [
        (metric, *_group([one.metrics[metric] for one in checks if metric in one.metrics]))
        for metric in DISTANCES
    ]
    model_rows = [
        (literal(name), *_group([one.models[name] for one in checks])) for name in checks[0].models
    ]
    heads = ("precision [%]", "false a model and 30 days", "recall [%]", "delay [h]")
    return "\n\n".join(
        (
            table(("", "number", "precision [%]", "by chance", heads[1]), "lrrrr", alarm_rows),
            table(
                ("events", "number", "recall [%]", "by chance", "delay [h]", "p90 [h]"),
                "lrrrrr",
                event_rows,
            ),
            table(("episodes of", *heads), "lrrrr", metric_rows),
            table(("episodes of", *heads), "lrrrr", model_rows),
        )
    )


def _counts(found: Sequence[tuple[Counts, Group]], by_chance: Sequence[Counts]) -> tuple[str, ...]:
    return (
        _spread([counts.total for counts, _ in found]),
        _spread([counts.precision for counts, _ in found], 100),
        _spread([counts.precision for counts in by_chance], 100),
        _spread([group.per_month(counts.false) for counts, group in found]),
    )


def _events(found: Sequence[Detections], by_chance: Sequence[Detections]) -> tuple[str, ...]:
    return (
        _spread([one.events for one in found]),
        _spread([one.recall for one in found], 100),
        _spread([one.recall for one in by_chance], 100),
        _spread([one.delay(50) for one in found]),
        _spread([one.delay(90) for one in found]),
    )


def _group(found: Sequence[Group]) -> tuple[str, ...]:
    return (
        _spread([one.episodes.precision for one in found], 100),
        _spread([one.per_month(one.episodes.false) for one in found]),
        _spread([one.detections.recall for one in found], 100),
        _spread([one.detections.delay(50) for one in found]),
    )


def _spread(values: Sequence[float | None], factor: float = 1.0) -> str:
    return spread([factor * value for value in values if value is not None])


def main() -> None:
    """Score the check and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detectors", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED")
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, metavar="MODEL")
    parser.add_argument("--days", type=int, default=365, help="at least 1")
    arguments = parser.parse_args()
    if arguments.days < 1:
        parser.error(f"--days is {arguments.days}, but must be at least 1")
    profiles = [profile_for(name) for name in arguments.models]
    print(markdown([measure(profiles, arguments.days, seed) for seed in arguments.seeds]))


if __name__ == "__main__":
    main()
