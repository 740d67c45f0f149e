"""docs/grafana/dashboard.json: it is portable, and its queries work on simulated data."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from sim_pipeline.metrics import EVENT_KINDS, FAILURE_KINDS, METRICS
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.docs.conftest import MODELS, PENDING
from sim_pipeline_tests.docs.grafana import View

FOLDER = Path(__file__).parents[2] / "docs" / "grafana"
GUIDE = (FOLDER / "README.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"]}
ANNOTATIONS: list[dict[str, Any]] = DASHBOARD["annotations"]["list"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
DATASOURCE = {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}


def query(history: Postgres, sql: str) -> tuple[list[str], Sequence[sa.Row[Any]]]:
    with history.engine.connect() as connection:
        result = connection.exec_driver_sql(sql.replace("%", "%%"))
        return list(result.keys()), result.all()


def shown(
    history: Postgres, title: str, metric: str = "TTFT", models: Sequence[str] = MODELS
) -> tuple[list[str], Sequence[sa.Row[Any]]]:
    """Return columns and rows of a panel over the last 7 days."""
    now = datetime.now(UTC)
    view = View(now - timedelta(days=7), now, 7200, {"metric": [metric], "llm_name": list(models)})
    (target,) = PANELS[title]["targets"]
    return query(history, view.interpolate(target["rawSql"]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("title", PANELS)
def test_every_panel_has_data_in_its_format(history: Postgres, title: str, metric: str) -> None:
    (target,) = PANELS[title]["targets"]

    columns, rows = shown(history, title, metric)

    assert rows
    if target["format"] == "time_series":
        assert columns[0] == "time"
        times = [float(row[0]) for row in rows]
        assert times == sorted(times)
        # At most one column is text, the name of the series; the others are numbers.
        assert [
            name for name, value in zip(columns, rows[0], strict=True) if type(value) is str
        ] in (
            [],
            ["metric"],
        )


@pytest.mark.parametrize("title", [title for title in PANELS if "side by side" in title])
def test_only_selected_models_are_shown(history: Postgres, title: str) -> None:
    _, rows = shown(history, title)
    assert {row.metric for row in rows} == set(MODELS)
    # A point covers two one-hour windows.
    assert len(rows) == pytest.approx(len(MODELS) * 7 * 24 / 2, rel=0.05)

    _, rows = shown(history, title, models=MODELS[:1])
    assert {row.metric for row in rows} == {MODELS[0]}


def test_percentiles_rise_and_fastest_comes_first(history: Postgres) -> None:
    _, rows = shown(history, "Percentiles of $metric over the time shown")

    assert [row.p50 for row in rows] == sorted(row.p50 for row in rows)
    assert all(row.p50 < row.p95 < row.p99 for row in rows)


def test_delivery_shows_pending_windows(history: Postgres) -> None:
    _, rows = shown(history, "Delivery")
    assert [(row.Model, row.Pending) for row in rows] == [(model, PENDING) for model in MODELS]

    _, ((pending,),) = shown(history, "Pending now")
    assert pending == PENDING * len(MODELS)

    _, ((waiting,),) = shown(history, "Oldest pending")
    assert waiting > 0


def test_lag_is_in_seconds(history: Postgres) -> None:
    _, rows = shown(history, "Delivery lag")

    assert {float(row.value) for row in rows} == {2.0}
    assert PANELS["Delivery lag"]["fieldConfig"]["defaults"]["unit"] == "s"


def test_failures_are_shares_of_the_models_requests(history: Postgres) -> None:
    panel = PANELS["Failed requests by kind: $llm_name"]
    assert panel["repeat"] == "llm_name"
    assert panel["fieldConfig"]["defaults"]["unit"] == "percentunit"

    columns, rows = shown(history, panel["title"], models=MODELS[:1])

    assert columns == ["time", "rate limited", "overloaded", "timed out"]
    # A point covers two one-hour windows.
    _, counts = query(
        history,
        'SELECT to_timestamp(floor(extract(epoch FROM "timestamp") / 7200) * 7200) AS time,'
        " sum(completed) AS completed, sum(rate_limited) AS rate_limited,"
        " sum(overloaded) AS overloaded, sum(timeout) AS timeout"
        f" FROM request_counts WHERE llm_name = '{MODELS[0]}' GROUP BY 1",
    )
    expected = {row.time.timestamp(): row for row in counts}
    # The query may select only a part of the first point.
    for time, *shares in rows[1:]:
        of_point = expected[float(time)]
        failed = [getattr(of_point, kind) for kind in FAILURE_KINDS]
        total = of_point.completed + sum(failed)
        assert [float(share) for share in shares] == pytest.approx(
            [float(count / total) for count in failed]
        )
    assert any(sum(shares) > 0 for _, *shares in rows)


def test_slo_panels_agree_with_the_view(history: Postgres) -> None:
    attainment = PANELS["SLO attainment of the models side by side"]
    goodput = PANELS["Goodput of the models side by side"]
    assert attainment["fieldConfig"]["defaults"]["unit"] == "percentunit"
    assert goodput["fieldConfig"]["defaults"]["unit"] == "reqps"
    # A point covers two one-hour windows.
    _, stored = query(
        history,
        'SELECT to_timestamp(floor(extract(epoch FROM "timestamp") / 7200) * 7200) AS time,'
        " avg(attainment) AS attainment, avg(goodput) AS goodput"
        f" FROM slo_attainment WHERE llm_name = '{MODELS[0]}' GROUP BY 1",
    )
    expected = {row.time.timestamp(): row for row in stored}
    for panel in (attainment, goodput):
        _, rows = shown(history, panel["title"], models=MODELS[:1])
        column = "attainment" if panel is attainment else "goodput"
        # The query may select only a part of the first point.
        for row in rows[1:]:
            assert row.value == pytest.approx(getattr(expected[float(row.time)], column))
        assert len({row.value for row in rows}) > 1


def marked(history: Postgres, now: datetime, models: Sequence[str] = MODELS) -> list[sa.Row[Any]]:
    """Return the rows of all annotations over the last 7 days."""
    view = View(now - timedelta(days=7), now, 60, {"metric": ["TPS"], "llm_name": list(models)})
    found: list[sa.Row[Any]] = []
    for annotation in ANNOTATIONS:
        columns, rows = query(history, view.interpolate(annotation["target"]["rawSql"]))
        # The names that Grafana looks for.
        assert columns == ["time", "timeend", "text", "tags"]
        assert [row.time for row in rows] == sorted(row.time for row in rows)
        found += rows
    return found


@pytest.mark.parametrize("models", [MODELS, MODELS[1:2], ("it's",)])
def test_events_of_the_selected_models_are_marked(
    history: Postgres, events: Sequence[SimulatedEvent], models: Sequence[str]
) -> None:
    found = marked(history, datetime.now(UTC), models)

    assert sorted(found) == sorted(
        (
            event.started_at,
            event.ended_at,
            f"{event.llm_name}: {event.kind.replace('_', ' ')}, size 0.123",
            ",".join(event.metrics),
        )
        for event in events
        if event.llm_name in models
    )
    assert len(found) == len(EVENT_KINDS) * len(set(models) & set(MODELS))


def test_only_events_of_the_time_shown_are_marked(
    history: Postgres, events: Sequence[SimulatedEvent]
) -> None:
    """The time shown begins within the first events and ends before the last ones begin."""
    begins, ends = events[0].started_at, events[-1].started_at
    now = begins + timedelta(days=7, hours=1)
    assert now < ends
    found = marked(history, now)
    assert {row.time for row in found} == {
        event.started_at for event in events if event.started_at <= now
    }
    assert begins in {row.time for row in found}
    assert ends not in {row.time for row in found}


def test_each_kind_of_event_has_a_switch() -> None:
    kinds = [
        re.findall(r"kind = '(\w+)'", annotation["target"]["rawSql"]) for annotation in ANNOTATIONS
    ]
    assert sorted(kinds) == sorted([kind] for kind in EVENT_KINDS)
    assert len({annotation["name"] for annotation in ANNOTATIONS}) == len(EVENT_KINDS)
    assert len({annotation["iconColor"] for annotation in ANNOTATIONS}) == len(EVENT_KINDS)
    hidden = [annotation["name"] for annotation in ANNOTATIONS if not annotation["enable"]]
    assert f"{' and '.join(hidden)} are hidden at first".lower() in GUIDE.lower()
    for annotation in ANNOTATIONS:
        assert annotation["filter"] == {"exclude": True, "ids": [PANELS["Delivery lag"]["id"]]}


def test_documented_role_is_read_only(
    history: Postgres,
) -> None:
    (statements,) = re.findall(r"```sql\n(.*?)```", GUIDE, flags=re.DOTALL)
    view = View(datetime.now(UTC), datetime.now(UTC), 60, {"metric": ["TPS"], "llm_name": MODELS})
    with history.engine.connect() as connection:  # never committed
        connection.exec_driver_sql(statements)
        connection.exec_driver_sql("SET LOCAL ROLE grafana")
        for panel in PANELS.values():
            connection.exec_driver_sql(view.interpolate(panel["targets"][0]["rawSql"]))
        for annotation in ANNOTATIONS:
            connection.exec_driver_sql(view.interpolate(annotation["target"]["rawSql"]))
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql("DELETE FROM deliveries")


def test_variables_list_stored_models_and_all_metrics(history: Postgres) -> None:
    _, rows = query(history, VARIABLES["llm_name"]["query"])

    assert [name for (name,) in rows] == sorted(MODELS)
    assert tuple(VARIABLES["metric"]["query"].split(",")) == METRICS


def test_model_name_with_a_quote_is_escaped(history: Postgres) -> None:
    columns, rows = shown(history, "Delivery", models=["it's"])

    assert columns
    assert not rows


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) == len(PANELS)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_dashboard_names_no_installation() -> None:
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] is None
    sources = list(_values(DASHBOARD, "datasource"))
    assert len(sources) == 2 * len(PANELS) + len(ANNOTATIONS) + 1
    assert all(source == DATASOURCE for source in sources)
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == DATASOURCE["type"]


def test_every_referenced_variable_exists() -> None:
    named = {
        name or braced
        for name, braced in re.findall(r"\$(?:(\w+)|\{(\w+))", json.dumps(DASHBOARD["panels"]))
        if not (name or braced).startswith("__")
    }
    assert named == set(VARIABLES)


def _values(part: Any, key: str) -> Iterator[Any]:
    if isinstance(part, dict):
        if key in part:
            yield part[key]
        for value in part.values():
            yield from _values(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from _values(value, key)
