"""What the form of a what-if may ask for, and how what it may not is named."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.simulator.profiles import MODELS
from sim_pipeline.simulator.profiles_file import ProfilesFileError
from sim_pipeline.what_if.form import MAX_VALUES, Scenario, WhatIf, WhatIfError, read_form
from sim_pipeline.windows import Cadence

NAMES = ("GPT-4o", "Llama-3.1-8B", "DeepSeek-V3")
NOW = datetime(2026, 11, 24, 17, 20, tzinfo=UTC)
RHO = {"models": {"GPT-4o": {"rho": 0.7}}}


def asked(
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


def stretch(scenario: Scenario) -> tuple[datetime, datetime]:
    windows = scenario.windows
    return scenario.cadence.start_of(windows.start), scenario.cadence.start_of(windows.stop)


def refusal(**form: Any) -> list[str]:
    with pytest.raises(WhatIfError) as raised:
        asked(**form)
    return str(raised.value).splitlines()


def test_as_it_stands_it_changes_nothing_over_the_last_day_of_ended_windows() -> None:
    scenario = asked()
    assert scenario.llm_names == NAMES
    assert scenario.then == scenario.now
    assert stretch(scenario) == (NOW.replace(day=23, minute=0), NOW.replace(minute=0))


def test_what_is_filled_in_is_what_changes(tmp_path: Path) -> None:
    then = asked(seed=7, points=9, profiles=RHO).then
    assert (then.seed, then.points, then.source) == (7, 9, "given in the form")
    assert then.profiles["GPT-4o"].rho == 0.7
    assert then.profiles["DeepSeek-V3"] == MODELS["DeepSeek-V3"]
    file = tmp_path / "fleet.yaml"
    file.write_text("models: {GPT-4o: {rho: 0.2}}")
    scenario = asked(profiles_file=str(file))
    assert scenario.now.profiles["GPT-4o"] == MODELS["GPT-4o"]
    assert (scenario.then.profiles["GPT-4o"].rho, scenario.then.source) == (0.2, str(file))


def test_profiles_stand_in_place_of_the_current_file(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text("[models.DeepSeek-V3]\nrho = 0.1")
    assert asked(file=file).then.profiles["DeepSeek-V3"].rho == 0.1
    scenario = asked(file=file, profiles=RHO)
    assert (scenario.now.profiles["DeepSeek-V3"].rho, scenario.now.source) == (0.1, str(file))
    assert scenario.then.profiles["DeepSeek-V3"] == MODELS["DeepSeek-V3"]


def test_an_incident_may_be_written_as_the_launchpad_hands_it_on() -> None:
    """A time in its YAML arrives as text."""
    incident = {
        "model": "GPT-4o",
        "start": "2026-11-24T03:00:00Z",
        "end": "2026-11-24T05:00:00Z",
        "capacity_factor": 0.3,
    }
    then = asked(profiles={"incidents": [incident]}).then
    assert [one.capacity_factor for one in then.profiles["GPT-4o"].incidents] == [0.3]


def test_models_come_once_and_in_the_order_of_the_settings() -> None:
    assert asked(models=["DeepSeek-V3", "GPT-4o", "GPT-4o"]).llm_names == ("GPT-4o", "DeepSeek-V3")


def test_only_windows_that_have_ended_are_looked_at() -> None:
    scenario = asked(since="2026-11-24T15:00:00+01:00", until="2030-01-01T00:00:00Z")
    assert stretch(scenario) == (NOW.replace(hour=14, minute=0), NOW.replace(minute=0))
    day = asked(until="2026-06-10T00:00:00Z")
    assert stretch(day)[1] == datetime(2026, 6, 10, tzinfo=UTC)
    assert len(day.windows) == 24
    assert len(asked(interval=604_800).windows) == 1
    assert stretch(asked(since="2020-01-01T00:00:00Z"))[0] == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("interval", "points"), [(1, 5), (1, 10_000), (3600, 10_000)])
def test_the_default_stretch_is_never_too_long(interval: int, points: int) -> None:
    scenario = asked(interval=interval, current_points=points)
    values = len(NAMES) * len(scenario.windows) * points
    assert 0.9 * min(MAX_VALUES, 3 * 24 * points) < values <= MAX_VALUES


def test_what_is_too_much_is_refused_with_what_is_allowed() -> None:
    since = (NOW.replace(minute=0) - timedelta(hours=300)).isoformat()
    assert len(asked(since=since, points=1000).windows) == 300
    assert refusal(since=since, points=5000) == [
        (
            "since, until and models ask for 300 windows of 3 models, 900 together:"
            " at 5,000 points at most 200 are allowed"
        )
    ]


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ({"seed": -1}, "seed is -1: must be an integer >= 0"),
        ({"points": 0}, "points is 0: must be an integer in [1, 10000]"),
        ({"points": 10_001}, "points is 10001: must be an integer in [1, 10000]"),
        (
            {"models": ["GPT-4o", "GPT-5"]},
            "models names 'GPT-5': allowed are GPT-4o, Llama-3.1-8B, DeepSeek-V3",
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
                "no window that has ended starts from since, 2026-11-24T17:00:00Z, on and before"
                " until, not given: the first starts at 2026-01-01T00:00:00+00:00, the last one"
                " that has ended at 2026-11-24T16:00:00+00:00"
            ),
        ),
        (
            {"until": "2025-12-31T00:00:00Z"},
            (
                "no window that has ended starts from since, not given, on and before until,"
                " 2025-12-31T00:00:00Z: the first starts at 2026-01-01T00:00:00+00:00, the last one"
                " that has ended at 2026-11-24T16:00:00+00:00"
            ),
        ),
        (
            {"profiles": RHO, "profiles_file": "/a.toml"},
            "profiles and profiles_file, '/a.toml', are both given: allowed is one",
        ),
    ],
)
def test_a_fault_is_named(form: dict[str, Any], fault: str) -> None:
    assert refusal(**form) == [fault]


def test_every_fault_is_named_at_once() -> None:
    profiles = {"models": {"GPT-4o": {"rho": 2}}, "modells": {}}
    faults = refusal(seed=-1, points=0, models=["x"], profiles=profiles, since="x")
    assert [fault.split()[0] for fault in faults] == [
        "models", "seed", "points", "profiles:", "modells", "models.GPT-4o.rho", "since",
    ]  # fmt: skip
    assert faults[5] == "  models.GPT-4o.rho is 2: must be a number in (0, 0.9]"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    (line,) = refusal(profiles_file=str(missing))
    assert line.startswith(f"profiles_file: {missing}: cannot be read: ")
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: {GPT-4o: {cap: -1}}")
    assert refusal(profiles_file=str(bad)) == [
        f"profiles_file: {bad}:",
        "  models.GPT-4o.cap is -1: must be a number in (0, 10000]",
    ]
    with pytest.raises(ProfilesFileError, match=r"none\.toml: cannot be read: "):
        asked(file=missing)


def test_before_any_window_has_ended_that_is_said() -> None:
    with pytest.raises(WhatIfError, match=r"has ended yet: the first does at 2026-11-24T18:00:00"):
        asked(start="2026-11-24T17:00:00Z")


def test_every_field_is_described() -> None:
    for name, field in WhatIf.model_fields.items():
        assert field.description, name
