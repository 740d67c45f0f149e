"""The launch form of a what-if: defaults, limits and errors."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles_file import ProfilesFileError
from sim_pipeline.what_if.form import MAX_VALUES, Scenario, WhatIf, WhatIfError, read_form
from sim_pipeline.windows import Cadence

NAMES = ("GPT-4o", "Llama-3.1-8B", "DeepSeek-V3")
NOW = datetime(2026, 11, 24, 17, 20, tzinfo=UTC)
RHO = {"models": {"GPT-4o": {"rho": 0.7}}}


def scenario_for(
    *,
    interval: int = 3600,
    current_points: int = 5,
    start: str = "2026-01-01T00:00:00Z",
    file: Path | None = None,
    **form: Any,
) -> Scenario:
    simulation = SimulationInputs(
        cadence=Cadence(interval, datetime.fromisoformat(start)),
        points=current_points,
        seed=42,
        profiles_file=file,
    )
    return read_form(WhatIf(**form), simulation, NAMES, NOW)


def period_of(scenario: Scenario) -> tuple[datetime, datetime]:
    windows = scenario.windows
    return scenario.cadence.start_of(windows.start), scenario.cadence.start_of(windows.stop)


def problems_of(**form: Any) -> list[str]:
    with pytest.raises(WhatIfError) as raised:
        scenario_for(**form)
    return str(raised.value).splitlines()


def test_default_form_has_no_effect() -> None:
    scenario = scenario_for()
    assert scenario.llm_names == NAMES
    assert scenario.candidate == scenario.baseline
    assert period_of(scenario) == (NOW.replace(day=23, minute=0), NOW.replace(minute=0))


def test_form_fields_replace_current_inputs(tmp_path: Path) -> None:
    candidate = scenario_for(seed=7, points=9, profiles=RHO).candidate
    assert (candidate.seed, candidate.points, candidate.source) == (7, 9, "from the form")
    assert candidate.profiles["GPT-4o"].rho == 0.7
    assert candidate.profiles["DeepSeek-V3"] == MODELS["DeepSeek-V3"]
    file = tmp_path / "fleet.yaml"
    file.write_text("models: {GPT-4o: {rho: 0.2}}")
    scenario = scenario_for(profiles_file=str(file))
    assert scenario.baseline.profiles["GPT-4o"] == MODELS["GPT-4o"]
    assert (scenario.candidate.profiles["GPT-4o"].rho, scenario.candidate.source) == (
        0.2,
        str(file),
    )


def test_form_profiles_replace_the_profiles_file(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text("[models.DeepSeek-V3]\nrho = 0.1")
    assert scenario_for(file=file).candidate.profiles["DeepSeek-V3"].rho == 0.1
    scenario = scenario_for(file=file, profiles=RHO)
    assert (scenario.baseline.profiles["DeepSeek-V3"].rho, scenario.baseline.source) == (
        0.1,
        str(file),
    )
    assert scenario.candidate.profiles["DeepSeek-V3"] == MODELS["DeepSeek-V3"]


def test_incident_times_may_be_text() -> None:
    """The launchpad passes a time in YAML as text."""
    incident = {
        "model": "GPT-4o",
        "start": "2026-11-24T03:00:00Z",
        "end": "2026-11-24T05:00:00Z",
        "capacity_factor": 0.3,
    }
    candidate = scenario_for(profiles={"incidents": [incident]}).candidate
    assert [one.capacity_factor for one in candidate.profiles["GPT-4o"].incidents] == [0.3]


def test_dates_may_be_text() -> None:
    profiles = {
        "all_models": {"elasticity": 1, "measured": "2026-06-30"},
        "models": {"GPT-4o": {"creator": "us", "retired": "2026-11-24"}},
        "workload": {"heavy_share": 0},
    }
    candidate = scenario_for(profiles=profiles).candidate
    one = candidate.profiles["GPT-4o"]
    assert (one.measured, one.retired, one.creator) == (
        date(2026, 6, 30),
        date(2026, 11, 24),
        "us",
    )
    assert candidate.profiles["DeepSeek-V3"].retired is None
    for profile in candidate.profiles.values():
        assert (profile.elasticity, profile.workload.heavy_share) == (1, 0)


def test_models_are_unique_and_in_settings_order() -> None:
    assert scenario_for(models=["DeepSeek-V3", "GPT-4o", "GPT-4o"]).llm_names == (
        "GPT-4o",
        "DeepSeek-V3",
    )


def test_only_ended_windows_are_selected() -> None:
    scenario = scenario_for(since="2026-11-24T15:00:00+01:00", until="2030-01-01T00:00:00Z")
    assert period_of(scenario) == (NOW.replace(hour=14, minute=0), NOW.replace(minute=0))
    day = scenario_for(until="2026-06-10T00:00:00Z")
    assert period_of(day)[1] == datetime(2026, 6, 10, tzinfo=UTC)
    assert len(day.windows) == 24
    assert len(scenario_for(interval=604_800).windows) == 1
    assert period_of(scenario_for(since="2020-01-01T00:00:00Z"))[0] == datetime(
        2026, 1, 1, tzinfo=UTC
    )


@pytest.mark.parametrize(("interval", "points"), [(1, 5), (1, 10_000), (3600, 10_000)])
def test_default_range_stays_within_max_values(interval: int, points: int) -> None:
    scenario = scenario_for(interval=interval, current_points=points)
    values = len(NAMES) * len(scenario.windows) * points
    assert 0.9 * min(MAX_VALUES, 3 * 24 * points) < values <= MAX_VALUES


def test_too_many_windows_are_rejected() -> None:
    since = (NOW.replace(minute=0) - timedelta(hours=300)).isoformat()
    assert len(scenario_for(since=since, points=1000).windows) == 300
    assert problems_of(since=since, points=5000) == [
        (
            "since, until and models select 300 windows of 3 models, 900 in total:"
            " at 5,000 points at most 200 are allowed"
        )
    ]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"seed": -1}, "seed is -1: must be an integer >= 0"),
        ({"points": 0}, "points is 0: must be an integer in [1, 10000]"),
        ({"points": 10_001}, "points is 10001: must be an integer in [1, 10000]"),
        (
            {"models": ["GPT-4o", "GPT-5"]},
            "models contains 'GPT-5': allowed are GPT-4o, Llama-3.1-8B, DeepSeek-V3",
        ),
        (
            {"since": "yesterday"},
            (
                "since is 'yesterday': allowed is an ISO 8601 date or time, UTC unless it names its"
                " zone, such as 2026-01-01 or 2026-01-01T06:00:00Z"
            ),
        ),
        (
            {"since": "2026-11-24T17:00:00Z"},
            (
                "no window that has ended starts between since (2026-11-24T17:00:00Z) and until"
                " (not set): the first one starts at 2026-01-01T00:00:00Z, the last one that has"
                " ended at 2026-11-24T16:00:00Z"
            ),
        ),
        (
            {"until": "2025-12-31T00:00:00Z"},
            (
                "no window that has ended starts between since (not set) and until"
                " (2025-12-31T00:00:00Z): the first one starts at 2026-01-01T00:00:00Z, the last"
                " one that has ended at 2026-11-24T16:00:00Z"
            ),
        ),
        (
            {"profiles": RHO, "profiles_file": "/a.toml"},
            "profiles and profiles_file ('/a.toml') are both set: set only one",
        ),
    ],
)
def test_invalid_field_is_reported(form: dict[str, Any], message: str) -> None:
    assert problems_of(**form) == [message]


def test_all_problems_are_reported_at_once() -> None:
    profiles = {"models": {"GPT-4o": {"rho": 2}}, "modells": {}}
    problems = problems_of(seed=-1, points=0, models=["x"], profiles=profiles, since="x")
    assert [problem.split()[0] for problem in problems] == [
        "models", "seed", "points", "profiles:", "modells", "models.GPT-4o.rho", "since",
    ]  # fmt: skip
    assert problems[5] == "  models.GPT-4o.rho is 2: must be a number in (0, 0.9]"


def test_model_without_solution_is_reported() -> None:
    first, second = problems_of(profiles={"models": {"GPT-4o": {"batch_limit": 50}}})
    assert first == "profiles:"
    assert second.startswith("  models.GPT-4o: batch_limit is 50, but must be at least ")


def test_unreadable_profiles_file_is_reported(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    (line,) = problems_of(profiles_file=str(missing))
    assert line.startswith(f"profiles_file: {missing}: cannot be read: ")
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: {GPT-4o: {cap: -1}}")
    assert problems_of(profiles_file=str(bad)) == [
        f"profiles_file: {bad}:",
        "  models.GPT-4o.cap is -1: must be a number in (0, 10000]",
    ]
    with pytest.raises(ProfilesFileError, match=r"none\.toml: cannot be read: "):
        scenario_for(file=missing)


def test_no_ended_window_is_reported() -> None:
    with pytest.raises(
        WhatIfError, match=r"has ended yet: the first one ends at 2026-11-24T18:00:00"
    ):
        scenario_for(start="2026-11-24T17:00:00Z")


def test_every_field_has_a_description() -> None:
    for name, field in WhatIf.model_fields.items():
        assert field.description, name
