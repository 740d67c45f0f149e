"""Take the README's pictures of the UI into docs/img: run it as `python docs/screenshots.py`.

They show a service of their own, in a temporary directory, which needs some minutes for it.
"""

import re
import tempfile
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from benchmarks.service_under_test import ServiceUnderTest
from sim_pipeline_tests.ui.browser import open_browser
from sim_pipeline_tests.ui.dagster_ui import (
    backfill_status,
    graph_node,
    materialize_all,
    metadata,
    open_events,
    open_graph,
    show_markdown,
)
from sim_pipeline_tests.ui.watch import Watch

IMAGES = Path(__file__).parent / "img"
MODELS = ("GPT-4o", "Claude-3.5-Sonnet", "Gemini-1.5-Flash", "Llama-3.1-70B")
HISTORY = timedelta(days=90)
# Few enough that the backfill is in its middle when the UI first counts what is done.
DAYS_PER_RUN = 5
# A README shows a picture at about 830 pixels; screens have up to twice as many.
# Narrower, the graph leaves out what stands in its boxes.
VIEWPORT, SCALE = (1280, 640), 1.5
COLOURS = 128
PATIENCE = timedelta(minutes=1)
BACKFILL_PATIENCE = timedelta(minutes=10)


def save(shown: Page | Locator, name: str) -> None:
    """Take a picture of a page, or of a part of it, in few colours."""
    picture = shown.screenshot(animations="disabled", caret="hide")
    with Image.open(BytesIO(picture)) as image:
        file = IMAGES / f"ui_{name}.png"
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size / 1e3:.0f} kB")


def take(page: Page, origin: str, first_day: str, last_day: str) -> None:
    """Do a backfill of all that there is, and take pictures of it and of what comes of it."""
    open_graph(page, origin)
    page.get_by_role("button", name="Hide navigation").click()
    materialize_all(page, f"[{first_day}...{last_day}]", MODELS)
    # Without the note that it was launched.
    page.reload()
    some = page.get_by_text(re.compile(r"^[1-9]\d?% completed"))
    expect(some).to_have_count(2, timeout=BACKFILL_PATIENCE.total_seconds() * 1000)
    expect(page.get_by_text("Refreshing data")).to_be_hidden()
    save(page, "backfill")
    expect(backfill_status(page)).to_have_text(
        "Succeeded", timeout=BACKFILL_PATIENCE.total_seconds() * 1000
    )

    open_graph(page, origin)
    for asset in ("metric_frames", "benchmark_feed"):
        expect(graph_node(page, asset)).to_contain_text("100% filled")
    expect(graph_node(page, "model_comparison")).to_contain_text("Materialized")
    save(page, "graph")

    open_events(page, origin, "model_comparison")
    expect(metadata(page, "last 24 hours").get_by_role("table")).to_be_visible()
    save(page, "comparison")
    dialog = show_markdown(page, "last 7 days, plot")
    expect(dialog.get_by_role("img", name="plot")).to_have_js_property("complete", value=True)
    save(dialog.get_by_role("img", name="plot"), "comparison_plot")


def main() -> None:
    """Start the service, take the pictures, end it.

    Raises:
        RuntimeError: something was wrong on a page.
    """
    last = datetime.now(UTC)
    start = (last - HISTORY).replace(hour=0, minute=0, second=0, microsecond=0)
    settings = {
        "llm_models_str": ",".join(MODELS),
        "simulation_interval": 3600,
        "simulation_start": start,
        "catch_up_hours": 0,
        "backfill_days_per_run": DAYS_PER_RUN,
    }
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-screenshots-") as directory,
        open_browser() as browser,
        ServiceUnderTest(Path(directory), settings) as service,
        browser.new_context(
            viewport={"width": VIEWPORT[0], "height": VIEWPORT[1]},
            device_scale_factor=SCALE,
            locale="en-US",
            timezone_id="UTC",
        ) as context,
    ):
        expect.set_options(timeout=PATIENCE.total_seconds() * 1000)
        context.set_default_timeout(PATIENCE.total_seconds() * 1000)
        origin = f"http://127.0.0.1:{service.settings.ui_port}"
        watch = Watch(context, origin)
        take(context.new_page(), origin, start.date().isoformat(), last.date().isoformat())
        if watch.faults:
            raise RuntimeError("\n".join(["wrong on the pages:", *watch.faults]))


if __name__ == "__main__":
    main()
