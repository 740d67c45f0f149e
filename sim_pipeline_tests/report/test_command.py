"""The command `report`: its HTML file, its period and its errors."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa

from sim_pipeline.cli import main
from sim_pipeline.comparison.ranking import History
from sim_pipeline.config import Settings, load_settings
from sim_pipeline.report import page
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.stored_windows import (
    START,
    batch_of,
    event,
    execute,
    store,
    window_starts,
)

MODELS = ["GPT-4o", "<b>&B"]
HOURS = 48


@pytest.fixture
def stored(
    postgres: Postgres,
    settings: Settings,  # noqa: ARG001 - needed for its effect
    monkeypatch: pytest.MonkeyPatch,
) -> Postgres:
    """Two days of two models, of which the last window of each is not sent."""
    monkeypatch.setenv("LLM_MODELS_STR", ",".join(MODELS))
    monkeypatch.setenv("SIMULATION_START", START.isoformat())
    events = [
        event(20, 21),
        event(30, None, kind="level_shift", size=0.8),
        event(40, 41, MODELS[1], kind="failure_spell", size=0.2),
    ]
    store(postgres, batch_of(MODELS, window_starts(HOURS), events=events))
    execute(
        postgres,
        'UPDATE deliveries SET published_at = now() WHERE "timestamp" < :last',
        last=window_starts(HOURS)[-1],
    )
    execute(postgres, "INSERT INTO slos VALUES ('GPT-4o', 'chat', 1.0, 0.1, NULL)")
    return postgres


def run(*arguments: str, status: int = 0) -> None:
    load_settings.cache_clear()  # a process reads them once, and each test has its own
    code: object = 0
    try:
        code = main(["report", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    assert code == status


class _Tables(HTMLParser):
    """Collects the cells of each table row, by the heading above it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self._heading, self._tag = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the base's name
        self._tag = tag if tag != "small" else self._tag
        if tag in ("h2", "h3"):
            self._heading = ""
        elif tag == "tr":
            self.rows.setdefault(self._heading, []).append([])
        elif tag == "td":
            self.rows[self._heading][-1].append("")

    def handle_data(self, data: str) -> None:
        if self._tag in ("h2", "h3"):
            self._heading += data.strip()
        elif self._tag == "td":
            self.rows[self._heading][-1][-1] += data.strip()


def test_report_shows_rankings_events_objectives_and_delivery(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "new" / "report.html"
    run("--output", str(file))
    assert capsys.readouterr().out == f"Wrote {file}: open it in a browser\n"
    html = file.read_text(encoding="utf-8")
    assert "2026-11-24 00:00 to 2026-11-26 00:00 UTC" in html
    tables = _Tables(html).rows
    for metric in ("TTFT [s]", "TPS [tokens/s]", "e2e_latency [s]", "RPS [requests/s]"):
        ranked = tables[metric][1:]
        assert {row[1] for row in ranked} == set(MODELS)
        assert re.fullmatch(r"[\d.]+\([\d.]+ to [\d.]+\)", ranked[0][2])
    counts = {row[0]: row[1:3] for row in tables["What truly happened"][1:]}
    assert counts["incident"] == ["1", "1"]
    assert counts["failure spell"] == ["1", "1"]
    listed = [row[:3] for row in tables["Incidents and changes"][1:]]
    assert listed == [
        ["GPT-4o", "level shift", "2026-11-25 06:00"],
        ["GPT-4o", "incident", "2026-11-24 20:00"],
    ]
    (objective,) = tables["Service level objectives"][1:]
    assert objective[:5] == ["GPT-4o", "chat", "1", "0.1", "-"]
    assert [row[1:6] for row in tables["Delivery"][1:]] == [["48", "48", "47", "1", "0"]] * 2


def test_report_needs_nothing_from_elsewhere(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("--output", "-")
    html = capsys.readouterr().out
    assert "default-src 'none'" in html
    assert "<script" not in html
    for address in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert address.startswith(("data:image/svg+xml;base64,", "#"))
    assert "<b>&B" not in html
    assert "&lt;b&gt;&amp;B" in html


def test_period_is_chosen(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("--since", "2026-11-24T12:00", "--until", "2026-11-24T18:00Z", "--output", "-")
    html = capsys.readouterr().out
    assert "2026-11-24 12:00 to 2026-11-24 18:00 UTC" in html
    tables = _Tables(html).rows
    assert [row[1] for row in tables["Delivery"][1:]] == ["6", "6"]
    assert "Incidents and changes" not in tables


def test_missing_windows_are_counted(stored: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    with stored.engine.begin() as connection:
        connection.execute(
            sa.text(
                """DELETE FROM deliveries WHERE llm_name = 'GPT-4o' AND "timestamp" < :until"""
            ),
            {"until": window_starts(3)[-1]},
        )
    run("--output", "-")
    first, second = _Tables(capsys.readouterr().out).rows["Delivery"][1:]
    assert first[1:6] == ["48", "46", "45", "1", "2"]
    assert second[1:6] == ["48", "48", "47", "1", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "yesterday"], "--since is 'yesterday': allowed is an ISO 8601 date or time"),
        (["--until", "2026-13-01"], "--until is '2026-13-01': allowed is an ISO 8601 date or time"),
        (
            ["--since", "2026-11-08", "--until", "2026-11-01"],
            "--until is '2026-11-01': allowed is a time after --since, '2026-11-08'",
        ),
    ],
)
@pytest.mark.usefixtures("settings")
def test_invalid_time_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*arguments, status=2)
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.usefixtures("settings")
def test_database_without_windows_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    run(status=1)
    assert capsys.readouterr().err.startswith("No window is stored: make run")


def test_period_without_windows_is_reported(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("--since", "2026-11-26", status=1)
    assert capsys.readouterr().err == (
        "No window is stored from 2026-11-26T00:00:00Z to 2026-11-26T00:00:00Z: the latest one"
        " starts at 2026-11-25T23:00:00Z\n"
    )


def test_period_in_a_gap_is_reported(stored: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    execute(stored, "DELETE FROM deliveries WHERE timestamp < :until", until=window_starts(6)[-1])
    run("--since", "2026-11-24T01:00", "--until", "2026-11-24T05:00", status=1)
    assert capsys.readouterr().err == (
        "No window of the models is stored from 2026-11-24T01:00:00Z to 2026-11-24T05:00:00Z\n"
    )


def test_short_period_is_extended_to_the_hour_of_its_ranking(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SIMULATION_INTERVAL", "600")
    run("--since", "2026-11-24T18:00", "--until", "2026-11-24T18:10", "--output", "-")
    html = capsys.readouterr().out
    assert "2026-11-24 17:10 to 2026-11-24 18:10 UTC" in html
    assert [row[1] for row in _Tables(html).rows["Delivery"][1:]] == ["6", "6"]


def test_models_without_an_interval_do_not_lead(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("--since", "2026-11-24T12:00", "--until", "2026-11-24T13:00", "--output", "-")
    assert capsys.readouterr().out.count("<b>too few values</b>") == 4


@pytest.mark.usefixtures("stored")
def test_plot_marks_the_events_before_the_period(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[SimulatedEvent] = []

    def keep(history: History, events: Sequence[SimulatedEvent]) -> str:  # noqa: ARG001 - the original's
        marked.extend(events)
        return ""

    monkeypatch.setattr(page, "history_image", keep)
    run("--since", "2026-11-25T20:00", "--output", "-")
    assert {each.kind for each in marked} == {"incident", "level_shift", "failure_spell"}


@pytest.mark.usefixtures("settings")
def test_unreachable_database_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("POSTGRES_PORT", str(port))
    run(status=1)
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_unwritable_file_is_reported(
    stored: Postgres,  # noqa: ARG001 - needed for its effect
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("--output", str(tmp_path), status=1)
    assert capsys.readouterr().err == f"{tmp_path} cannot be written: Is a directory\n"
