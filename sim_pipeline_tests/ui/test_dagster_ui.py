"""Users view the graph, materialize a partition and start a backfill in the UI.

The fixture `page` also checks that no page has errors or requests anything from another host.
"""

from datetime import timedelta

import pytest
from playwright.sync_api import Page, expect

from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline_tests.support.whole_service import Service
from sim_pipeline_tests.ui.conftest import MODELS, TODAY
from sim_pipeline_tests.ui.dagster_ui import (
    backfill_status,
    graph_node,
    materialize_all,
    metadata,
    open_events,
    open_graph,
    open_graph_of,
    open_partition,
    run_end,
    show_markdown,
)

pytestmark = pytest.mark.timeout(400)

WINDOWS_A_DAY = 24
_RUN_MS = 120_000
_BACKFILL_MS = 240_000


def test_graph_is_ordered_from_left_to_right(page: Page, origin: str) -> None:
    open_graph(page, origin)

    positions = []
    for asset in ("metric_frames", "benchmark_feed", "model_comparison"):
        node = graph_node(page, asset)
        expect(node).to_be_visible()
        box = node.bounding_box()
        assert box is not None
        positions.append(box["x"])
    assert positions == sorted(set(positions))
    expect(page.locator("foreignObject")).to_have_count(len(positions))


def test_materialized_partition_shows_its_metadata(
    page: Page, origin: str, service: Service
) -> None:
    model, day = MODELS[1], (TODAY - timedelta(days=3)).date().isoformat()
    open_graph(page, origin)
    materialize_all(page, day, [model])
    expect(run_end(page)).to_be_visible(timeout=_RUN_MS)
    assert run_end(page).inner_text() == "Success"

    open_partition(page, origin, "metric_frames", f"{day}|{model}")
    expect(metadata(page, "windows simulated")).to_have_text(str(WINDOWS_A_DAY))
    for metric, typical in medians(service, model, day).items():
        shown = metadata(page, f"{metric} p50 [{UNITS[metric]}]").inner_text()
        assert float(shown) == pytest.approx(typical, rel=1e-4), metric
    open_partition(page, origin, "benchmark_feed", f"{day}|{model}")
    expect(metadata(page, "messages sent")).to_have_text(str(WINDOWS_A_DAY))

    open_events(page, origin, "model_comparison")
    for period in ("last 24 hours", "last 7 days"):
        for metric in METRICS:
            title = f"{metric} [{UNITS[metric]}], {period}"
            # The heading, and one row for each model with values in the period.
            rows = metadata(page, title).get_by_role("table").get_by_role("row")
            expect(rows).to_have_count(1 + len(MODELS))
        dialog = show_markdown(page, f"{period}, plot")
        plot = dialog.get_by_role("img", name="plot")
        expect(plot).to_have_js_property("complete", value=True)
        assert plot.evaluate("image => image.naturalWidth") > 0
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden()


def test_backfill_of_a_range_completes(page: Page, origin: str, service: Service) -> None:
    days = [(TODAY - timedelta(days=back)).date().isoformat() for back in (8, 7, 6)]
    partitions = len(days) * len(MODELS)
    open_graph_of(page, origin, ["metric_frames", "benchmark_feed"])
    materialize_all(page, f"[{days[0]}...{days[-1]}]", MODELS)
    expect(page.get_by_role("button", name=f"{partitions} partitions")).to_be_visible()

    expect(backfill_status(page)).not_to_have_text("In progress", timeout=_BACKFILL_MS)
    expect(backfill_status(page)).to_have_text("Succeeded")
    expect(page.get_by_text("100% completed")).to_have_count(2)
    delivered = service.query(
        "SELECT count(*) FROM deliveries WHERE published_at IS NOT NULL"
        ' AND "timestamp"::date BETWEEN :first AND :last',
        first=days[0],
        last=days[-1],
    )
    assert delivered == [(partitions * WINDOWS_A_DAY,)]


def medians(service: Service, model: str, day: str) -> dict[str, float]:
    """Return the median of the p50 of a day's windows, by metric."""
    rows = service.query(
        "SELECT metric, percentile_cont(0.5) WITHIN GROUP (ORDER BY p50) FROM metric_summary"
        " WHERE llm_name = :model AND timestamp >= CAST(:day AS date)"
        " AND timestamp < CAST(:day AS date) + 1 GROUP BY metric",
        model=model,
        day=day,
    )
    assert {row[0] for row in rows} == set(METRICS)
    return {row[0]: row[1] for row in rows}
