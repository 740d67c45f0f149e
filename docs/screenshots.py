"""Take the README's screenshots of the UI: `python docs/screenshots.py` writes to docs/img.

It starts its own service in a temporary directory, and takes some minutes.
"""

import re
import tempfile
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, ViewportSize, expect

from benchmarks.service_under_test import ServiceUnderTest
from sim_pipeline.metrics import UNITS
from sim_pipeline_tests.ui.browser import open_browser, open_context
from sim_pipeline_tests.ui.dagster_ui import (
    backfill_status,
    graph_node,
    materialize_all,
    metadata,
    open_events,
    open_graph,
    show_markdown,
)

IMAGES = Path(__file__).parent / "img"
MODELS = ("GPT-4o", "Claude-Opus-4.7", "GPT-5.4-mini", "DeepSeek-V4-Pro")
HISTORY = timedelta(days=30)
# Small enough that the backfill is still running when the UI first counts its progress.
DAYS_PER_RUN = 2
# A README shows an image about 830 pixels wide, on screens with up to twice as many. With a
# narrower viewport the graph hides the contents of its nodes.
VIEWPORT: ViewportSize = {"width": 1280, "height": 640}
SCALE = 1.5
# Large enough for a whole dialog with a table, and for a plot in its original size.
DIALOG_VIEWPORT: ViewportSize = {"width": 1280, "height": 1280}
BACKFILL_MS = 900_000


def save(shown: Page | Locator, name: str) -> None:
    """Save a screenshot of a page or of an element."""
    picture = shown.screenshot(animations="disabled", caret="hide")
    file = IMAGES / f"ui_{name}.png"
    with Image.open(BytesIO(picture)) as image:
        # A palette needs a third of the bytes. MAXCOVERAGE keeps the rare colours of icons.
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
        reduced.save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")


def clear(page: Page) -> None:
    """Reload a page without notifications, and with the pointer outside its content."""
    page.mouse.move(VIEWPORT["width"] / 2, 0)
    page.reload()


def take_backfill_and_graph(page: Page, origin: str, first_day: str, last_day: str) -> None:
    """Backfill all partitions; take screenshots of the backfill and of the graph after it."""
    open_graph(page, origin)
    page.get_by_role("button", name="Hide navigation").click()
    materialize_all(page, f"[{first_day}...{last_day}]", MODELS)
    clear(page)
    some = page.get_by_text(re.compile(r"^[1-9]\d% completed"))
    expect(some).to_have_count(2, timeout=BACKFILL_MS)
    save(page, "backfill")
    expect(backfill_status(page)).to_have_text("Succeeded", timeout=BACKFILL_MS)

    open_graph(page, origin)
    clear(page)
    for asset in ("metric_frames", "benchmark_feed"):
        expect(graph_node(page, asset)).to_contain_text("100% filled")
    expect(graph_node(page, "model_comparison")).to_contain_text("Materialized")
    save(page, "graph")


def take_comparison(page: Page, origin: str) -> None:
    """Take screenshots of a table and a plot of the latest comparison."""
    open_events(page, origin, "model_comparison")
    table = metadata(page, f"TTFT [{UNITS['TTFT']}], last 24 hours").get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(1 + len(MODELS))
    save(table, "comparison")
    plot = show_markdown(page, "last 7 days, plot").get_by_role("img", name="plot")
    expect(plot).to_have_js_property("complete", value=True)
    save(plot, "comparison_plot")


def main() -> None:
    """Start the service, take the screenshots, and stop it.

    Raises:
        RuntimeError: a page had faults.
    """
    last = datetime.now(UTC)
    start = (last - HISTORY).replace(hour=0, minute=0, second=0, microsecond=0)
    settings = {
        "llm_models": MODELS,
        "simulation_interval": 3600,
        "simulation_start": start,
        "catch_up_hours": 0,
        "backfill_days_per_run": DAYS_PER_RUN,
    }
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-screenshots-") as directory,
        open_browser() as browser,
        ServiceUnderTest(Path(directory), settings) as service,
    ):
        origin = f"http://127.0.0.1:{service.settings.ui_port}"
        first_day, last_day = start.date().isoformat(), last.date().isoformat()
        with open_context(browser, origin, VIEWPORT, SCALE) as (context, for_pages):
            take_backfill_and_graph(context.new_page(), origin, first_day, last_day)
        with open_context(browser, origin, DIALOG_VIEWPORT) as (context, for_dialogs):
            take_comparison(context.new_page(), origin)
        if faults := [*for_pages.faults, *for_dialogs.faults]:
            raise RuntimeError("\n".join(["faults on the pages:", *faults]))


if __name__ == "__main__":
    main()
