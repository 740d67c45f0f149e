"""User actions in Dagster's UI, and locators for what it displays."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect


def open_graph(page: Page, origin: str) -> None:
    """Navigate from the start page to the graph of all assets."""
    page.goto(origin)
    # Located by its target, because an icon next to it has the same name.
    page.get_by_role("navigation").locator('a[href="/asset-groups"]').click()


def open_graph_of(page: Page, origin: str, assets: Sequence[str]) -> None:
    """Open the graph of some assets, with the same URL that the page of a run links to."""
    selection = " or ".join(f'key:"{name}"' for name in assets)
    page.goto(f"{origin}/asset-groups~{quote(selection)}/")


def open_events(page: Page, origin: str, name: str) -> None:
    """Open the events of an asset; the latest event shows its metadata."""
    page.goto(f"{origin}/assets/{name}?view=events")


def open_partition(page: Page, origin: str, name: str, key: str) -> None:
    """Open a partition of an asset; its latest materialization shows its metadata."""
    page.goto(f"{origin}/assets/{name}?view=partitions&partition={quote(key)}")


def graph_node(page: Page, name: str) -> Locator:
    """Return an asset's node in the graph."""
    return page.locator("foreignObject").filter(has=page.get_by_text(name, exact=True))


def materialize_all(page: Page, days: str, models: Sequence[str]) -> str:
    """Materialize the assets of the displayed graph, and open the run or backfill.

    Args:
        page: displays a graph.
        days: a day or a range in the dialog's syntax: `2026-01-01` or
            `[2026-01-01...2026-01-31]`.
        models: the models to select.

    Returns:
        The id of the run, or of the backfill if there is more than one partition.
    """
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
    chosen = dialog.get_by_role("textbox")
    chosen.fill(days)
    chosen.press("Enter")
    dialog.get_by_text("Select a partition").click()
    for model in models:
        page.get_by_role("menuitem", name=model).click()
    page.keyboard.press("Escape")
    dialog.get_by_role("button", name="Launch").click()
    page.get_by_role("region", name="Notifications").get_by_role("link", name="View").click()
    expect(page).to_have_url(re.compile("/runs/"))
    return page.url.rpartition("/")[2]


def run_end(page: Page) -> Locator:
    """Return the final status of the displayed run; it appears when the run ends."""
    return page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first


def backfill_status(page: Page) -> Locator:
    """Return the status of the displayed backfill."""
    return page.get_by_text("Status", exact=True).locator("xpath=following-sibling::*")


def metadata(page: Page, name: str) -> Locator:
    """Return the value cell of a metadata entry."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
    return row.get_by_role("cell").nth(1)


def show_markdown(page: Page, name: str) -> Locator:
    """Open the dialog of a metadata entry that does not fit its cell, and return the dialog."""
    metadata(page, name).get_by_text("Show Markdown").click()
    return page.get_by_role("dialog").filter(has_text=name)
