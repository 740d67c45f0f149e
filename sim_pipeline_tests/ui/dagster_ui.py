"""Dagster's UI as a person uses it: what is clicked and typed, and where things are to be read."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect


def open_graph(page: Page, origin: str) -> None:
    """Go to the graph of all assets from the page that the UI opens with."""
    page.goto(origin)
    # By where it leads: its name is also in that of an icon beside.
    page.get_by_role("navigation").locator('a[href="/asset-groups"]').click()


def open_graph_of(page: Page, origin: str, assets: Sequence[str]) -> None:
    """Go to the graph of some assets, by the link that runs have to theirs."""
    selection = " or ".join(f'key:"{name}"' for name in assets)
    page.goto(f"{origin}/asset-groups~{quote(selection)}/")


def open_events(page: Page, origin: str, name: str) -> None:
    """Go to the events of an asset, where the latest shows its metadata."""
    page.goto(f"{origin}/assets/{name}?view=events")


def open_partition(page: Page, origin: str, name: str, key: str) -> None:
    """Go to a partition of an asset, where its latest materialization shows its metadata."""
    page.goto(f"{origin}/assets/{name}?view=partitions&partition={quote(key)}")


def graph_node(page: Page, name: str) -> Locator:
    """Return the box of an asset in the graph."""
    return page.locator("foreignObject").filter(has=page.get_by_text(name, exact=True))


def materialize_all(page: Page, days: str, models: Sequence[str]) -> str:
    """Launch the assets of the graph that is shown, from the dialog; open what was launched.

    Args:
        page: shows a graph.
        days: as the dialog takes them: `2026-01-01` or `[2026-01-01...2026-01-31]`.
        models: to choose.

    Returns:
        The id of the run or, for more than one partition, of the backfill.
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
    """Return how the run that is shown ended, once it has."""
    return page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first


def backfill_status(page: Page) -> Locator:
    """Return the status of the backfill that is shown."""
    return page.get_by_text("Status", exact=True).locator("xpath=following-sibling::*")


def metadata(page: Page, name: str) -> Locator:
    """Return the cell beside the name of an entry of the metadata that are shown."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
    return row.get_by_role("cell").nth(1)


def show_markdown(page: Page, name: str) -> Locator:
    """Open an entry of the metadata that is too long for its cell; return the dialog with it."""
    metadata(page, name).get_by_text("Show Markdown").click()
    return page.get_by_role("dialog").filter(has_text=name)
