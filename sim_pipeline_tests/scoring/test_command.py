"""The command `score`, run against a database with windows and events."""

import io
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.cli import main
from sim_pipeline.config import Settings, load_settings
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.store.connection import Postgres
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    event,
    execute,
    store,
    window_starts,
)

MODELS = ["GPT-4o", "[bold]B"]
DAY = 24

pytestmark = pytest.mark.usefixtures("settings")


def run(*arguments: object, status: int = 0) -> None:
    load_settings.cache_clear()  # a process reads them once, and each test has its own
    code: object = 0
    try:
        code = main(["score", *map(str, arguments)])
    except SystemExit as exit_:
        code = exit_.code
    assert code == status


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    run(*arguments, status=status)
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()[-1]


def at(hours: float) -> str:
    return format_timestamp(START + hours * HOUR)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["model,metric,time", *lines]), encoding="utf-8")
    return path


@pytest.fixture
def stored(postgres: Postgres) -> Sequence[SimulatedEvent]:
    """Two days of the first model with an hour missing, one day of the other; four events."""
    events = [
        event(10.0, 12.0, kind="incident", size=0.5),
        event(20.0, 20.5, kind="burst", size=2.2),
        event(30.0, None, kind="level_shift", size=0.8),
    ]
    others = [event(4.0, 5.0, MODELS[1], kind="incident", size=0.4)]
    starts = window_starts(2 * DAY)
    store(
        postgres,
        batch_of(MODELS[:1], starts[:40] + starts[41:], events=events),
        batch_of(MODELS[1:], starts[:DAY], events=others),
    )
    return [*events, *others]


@pytest.fixture
def alarms(tmp_path: Path) -> Path:
    return write(
        tmp_path / "alarms.csv",
        f"GPT-4o,TPS,{at(11)}",
        f"GPT-4o,TPS,{at(12)}",
        f"GPT-4o,TTFT,{at(21)}",
        f"GPT-4o,,{at(33)}",
        f"GPT-4o,TPS,{at(40.5)}",
        f"GPT-4o,TPS,{at(48)}",
        f"[bold]B,TPS,{at(4.5)}",
        f"[bold]B,TPS,{at(24)}",
        f"[bold]B,TPS,{at(25)}",
    )


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    run(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("stored")
def test_json_has_the_figures(alarms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, alarms)

    assert (found["since"], found["until"]) == (at(0), at(48))
    assert found["rule"] == {
        "kinds": ["incident", "level_shift", "capacity"],
        "all_shifts": False,
        "grace_hours": 2,
        "horizon_hours": 24,
        "merge_hours": 2,
    }
    # In the missing hour of the first model, and after the last window of the other.
    assert found["left_out"] == 2
    overall = found["overall"]
    assert overall["alarms"] == {
        "number": 7,
        "true": 5,
        "false": 1,
        "neither": 1,
        "precision": pytest.approx(5 / 6),
        "false_per_model_and_30_days": pytest.approx(1 / (71 / DAY / 30)),
    }
    assert overall["episodes"]["true"] == 4
    assert overall["covered_days"] == pytest.approx(71 / DAY)
    assert (overall["events"], overall["found"], overall["recall"]) == (3, 3, 1)
    assert (overall["delay_p50_hours"], overall["delay_p90_hours"]) == (1, pytest.approx(2.6))
    assert [(one["kind"], one["size"], one["found"]) for one in found["kinds"]] == [
        ("incident", None, 2),
        ("incident", "severe", 2),
        ("level_shift", None, 1),
        ("level_shift", "medium", 1),
    ]
    assert [one["size"] for one in found["sizes"]] == ["medium", "severe"]
    assert [one["metric"] for one in found["metrics"]] == ["TTFT", "TPS", None]
    models = {one["llm_name"]: one for one in found["models"]}
    assert models["[bold]B"]["alarms"]["false_per_model_and_30_days"] == pytest.approx(30)
    assert models["GPT-4o"]["covered_days"] == pytest.approx(47 / DAY)


@pytest.mark.usefixtures("stored")
def test_tables_have_the_figures(alarms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(alarms)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    assert f"{at(0)} to {at(48)}: 3.0 days of windows, 2 models" in lines
    assert "Left out: 2 alarms of other models or outside the scored windows" in lines
    assert "alarms 7 5 1 1 83% 10.14" in lines
    assert "incident 2 2 100% 0.75 0.95" in lines
    assert "TPS 4 75% 10.14 3 100% 1.00" in lines
    assert "[bold]B 2 50% 30.00 1 100% 0.50" in lines


def test_long_names_leave_the_numbers_whole(
    postgres: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "N" * 50
    store(postgres, batch_of([name], window_starts(DAY), events=[event(10.0, 12.0, name)]))
    run(write(tmp_path / "alarms.csv", f"{name},TPS,{at(11)}", f"{name},TPS,{at(2)}"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(re.fullmatch(r"N+ 2 50% 30.00 1 100% 1.00", line) for line in lines)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--kinds", "incident"], "To find: incident"),
        (["--kinds", "level_shift"], "To find: level_shift; of level shifts, the slower ones"),
        (["--kinds", "level_shift", "--all-shifts"], "To find: level_shift"),
    ],
)
def test_tables_name_the_events_to_find(
    arguments: list[str], line: str, alarms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(alarms, *arguments)
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("stored")
def test_alarms_come_from_standard_input(
    alarms: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(alarms.read_bytes())))
    assert json_of(capsys, "-")["overall"]["alarms"]["number"] == 7
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert error_of(capsys, "-").startswith("standard input: is empty")


@pytest.mark.parametrize(
    ("arguments", "period", "alarms_events"),
    [
        (("--since", at(10)), (10, 48), (6, 2)),
        (("--since", at(11)), (11, 48), (5, 1)),  # an alarm at the start is of the window before
        (("--until", at(12)), (0, 12), (3, 2)),
        (("--since", at(10.5), "--until", at(11.5)), (10.5, 11.5), (1, 0)),
        (("--since", "1971-01-01", "--until", "2300-01-01"), (0, 48), (7, 3)),
        (("--models", "GPT-4o"), (0, 48), (5, 2)),
    ],
)
@pytest.mark.usefixtures("stored")
def test_period_and_models_limit_what_is_scored(
    alarms: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    period: tuple[float, float],
    alarms_events: tuple[int, int],
) -> None:
    found = json_of(capsys, alarms, *arguments)
    assert (found["since"], found["until"]) == tuple(map(at, period))
    assert (found["overall"]["alarms"]["number"], found["overall"]["events"]) == alarms_events


@pytest.mark.usefixtures("stored")
def test_events_before_the_period_explain_alarms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raised = write(tmp_path / "a.csv", f"GPT-4o,TPS,{at(13.5)}", f"GPT-4o,,{at(47)}")
    found = json_of(capsys, raised, "--since", at(13))["overall"]
    assert (found["alarms"]["true"], found["events"]) == (2, 1)
    found = json_of(capsys, raised, "--since", at(40))["overall"]
    assert (found["alarms"]["true"], found["events"]) == (1, 0)


@pytest.mark.usefixtures("stored")
def test_options_change_the_rule(alarms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(
        capsys, alarms, "--kinds", " burst ,incident", "--grace", 0.5, "--merge", 0, "--horizon", 3
    )
    assert found["rule"] == {
        "kinds": ["burst", "incident"],
        "all_shifts": False,
        "grace_hours": 0.5,
        "horizon_hours": 3,
        "merge_hours": 0,
    }
    counts = found["overall"]["alarms"]
    assert (counts["true"], counts["neither"]) == (4, 1)
    assert found["overall"]["episodes"]["number"] == 7


def test_improvement_counts_with_all_shifts(
    postgres: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    better = event(5.0, None, kind="level_shift", size=1.2)
    store(postgres, batch_of(MODELS[:1], window_starts(DAY), events=[better]))
    raised = write(tmp_path / "a.csv", f"GPT-4o,TPS,{at(6)}")
    assert json_of(capsys, raised)["overall"]["alarms"]["neither"] == 1
    assert json_of(capsys, raised, "--all-shifts")["overall"]["recall"] == 1


def test_windows_of_another_interval_are_ignored(
    postgres: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = window_starts(DAY, step=timedelta(minutes=40))
    store(postgres, batch_of(MODELS[:1], starts, window_seconds=2400))
    found = json_of(capsys, write(tmp_path / "a.csv"))
    # Every third window starts at a full hour.
    assert found["overall"]["covered_days"] == pytest.approx(8 / 24)


@pytest.mark.parametrize(
    ("line", "arguments", "message"),
    [
        ("GPT-5,TPS,2026-11-24", (), "line 2: model is 'GPT-5': must be one of GPT-4o, [bold]B"),
        ("", ("--models", "GPT-4o,GPT-5"),
         ("--models: unknown models: 'GPT-5'; allowed are those with stored windows: GPT-4o,"
         " [bold]B")),
        ("", ("--kinds", "incident,crash"), ("--kinds is 'incident,crash': allowed are one or more"
         " of incident, level_shift, capacity, burst, failure_spell, release, retirement")),
        ("", ("--kinds", ","), "--kinds is '': allowed are one or more"),
        ("", ("--since", "noon"), "--since is 'noon': allowed is an ISO 8601 date or time"),
        ("", ("--until", "2026"), "--until is '2026': allowed is an ISO 8601 date or time"),
        ("", ("--until", at(0)), (f"no windows are stored from {at(0)} (--since) to {at(0)}"
         f" (--until): the stored ones are from {at(0)} to {at(48)}")),
        ("", ("--since", at(12), "--until", at(6)),
         f"no windows are stored from {at(12)} (--since) to {at(6)} (--until)"),
        ("", ("--since", at(40.25), "--until", at(40.75)), "no windows are stored from"),
        ("", ("--grace", "2h"),
         "argument --grace: '2h': allowed is a number of hours from 0 to 8784"),
        ("", ("--merge", "-1"), "argument --merge: '-1': allowed is a number of hours"),
        ("", ("--horizon", "nan"), "argument --horizon: 'nan': allowed is a number of hours"),
        ("", ("--horizon", "1e9"), "argument --horizon: '1e9': allowed is a number of hours"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("stored")
def test_invalid_arguments_and_alarms_are_reported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    path = write(tmp_path / "a.csv", line)
    assert message in error_of(capsys, path, *arguments)


def test_unreadable_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.csv"
    expected = f"{missing}: cannot be read: No such file or directory"
    assert error_of(capsys, missing) == expected


def test_empty_database_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, write(tmp_path / "a.csv")) == (
        "no windows of 3600 s are stored: simulate some with `make backfill`, or set"
        " SIMULATION_INTERVAL as the service has it"
    )


def test_database_faults_are_reported(
    postgres: Postgres,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path / "a.csv")
    store(postgres, batch_of(MODELS, window_starts(1)))
    execute(postgres, "DROP TABLE simulated_events CASCADE")
    assert "run `make migrate`" in error_of(capsys, path, status=1)
    monkeypatch.setenv("POSTGRES_PORT", str(free_port()))
    message = error_of(capsys, path, status=1)
    assert message.startswith("no connection to postgresql://")
    assert settings.postgres_password.get_secret_value() not in message


def test_invalid_settings_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMULATION_INTERVAL", "0")
    assert "SIMULATION_INTERVAL" in error_of(capsys, write(tmp_path / "a.csv"))
