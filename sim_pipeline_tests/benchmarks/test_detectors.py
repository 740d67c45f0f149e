"""The measurement of benchmarks/detectors.py: the alarms of the check, and their score."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from benchmarks.detectors import Results, alarms_of, markdown, measure
from benchmarks.regressions import FIRST, HOUR, READ, START
from sim_pipeline.comparison.regressions import DISTANCES
from sim_pipeline.scoring.score import Alarm
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles import Incident

BEGIN = READ + 100
PROFILES = [
    replace(
        MODELS["GPT-4o"],
        incidents=(Incident((FIRST + BEGIN) * HOUR, (FIRST + BEGIN + 24) * HOUR, 0.1),),
    ),
    MODELS["DeepSeek-V3"],
]


@pytest.fixture(scope="module")
def results() -> Results:
    return measure(PROFILES, days=10, seed=42)


def test_alarm_is_raised_at_the_end_of_the_hour() -> None:
    reported = np.zeros((2, len(DISTANCES), 50), dtype=np.bool_)
    reported[1, list(DISTANCES).index("TPS"), 7] = True
    assert list(alarms_of(PROFILES, reported)) == [
        Alarm("DeepSeek-V3", "TPS", START + timedelta(hours=READ + 8))
    ]


def test_every_alarm_and_hour_is_scored(results: Results) -> None:
    for score in (results.check, results.chance):
        assert score.left_out == 0
        assert score.overall.covered == 2 * timedelta(days=10)
        assert list(score.models) == ["GPT-4o", "DeepSeek-V3"]
        assert 0 < score.overall.detections.events < 20
    assert results.check.overall.alarms.total == results.chance.overall.alarms.total


def test_long_incident_is_found_but_not_by_moved_alarms(results: Results) -> None:
    assert 0 < results.check.kinds["incident", "severe"].delays[0] <= 24
    assert results.check.overall.alarms.true > results.chance.overall.alarms.true


def test_tables_have_a_row_for_each_model_and_metric(results: Results) -> None:
    text = markdown([results, results])
    assert text.count("| --- |") == 4
    for name in ("alarms", "episodes", "all", "TPS", "GPT-4o", "DeepSeek-V3"):
        assert f"\n| {name} | " in text
    total = results.check.overall.alarms.total
    assert f"\n| alarms | {total} ({total} to {total}) | " in text
