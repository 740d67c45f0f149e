"""A browser without a window, for the tests and the pictures of the README.

What belongs here: which browser, how it is started and what it is kept from. What is done in it
stands in the modules beside.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Playwright,
    ViewportSize,
    expect,
    sync_playwright,
)

from sim_pipeline_tests.ui.watch import Watch

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MACOS = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)
# On a machine with much else to do a page takes seconds.
_PATIENCE_MS = 60_000
# Whatever a page, or the browser by itself, asks for elsewhere finds no host: names and addresses.
# To a browser, localhost is another site than 127.0.0.1.
_THIS_MACHINE_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


class NoBrowserError(RuntimeError):
    """There is no browser on this machine; the message says what to install."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium, or Chrome, that reaches nothing but this machine; end it at the end.

    Raises:
        NoBrowserError: neither is in the PATH, and Playwright has none of its own.
    """
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=_find(playwright),
            # Chromium refuses to be root with its sandbox.
            chromium_sandbox=os.geteuid() != 0,
            args=[_THIS_MACHINE_ONLY],
        ) as browser,
    ):
        yield browser


@contextmanager
def open_context(
    browser: Browser, origin: str, viewport: ViewportSize, scale: float = 1.0
) -> Iterator[tuple[BrowserContext, Watch]]:
    """Begin to use the UI as somebody whose browser knows nothing of it yet, in English and UTC.

    Args:
        browser: the browser.
        origin: scheme, host and port of the UI.
        viewport: size of a page.
        scale: pixels of the screen for one of the page.

    Yields:
        What pages are opened in, and what is watched on them.
    """
    expect.set_options(timeout=_PATIENCE_MS)
    with browser.new_context(
        viewport=viewport, device_scale_factor=scale, locale="en-US", timezone_id="UTC"
    ) as context:
        context.set_default_timeout(_PATIENCE_MS)
        yield context, Watch(context, origin)


def _find(playwright: Playwright) -> Path:
    found = [Path(path) for path in map(shutil.which, _NAMES) if path]
    for path in [*found, *_MACOS, Path(playwright.chromium.executable_path)]:
        if path.exists():
            return path
    raise NoBrowserError(
        "needs Chromium or Chrome: apt-get install chromium, brew install --cask google-chrome,"
        " or .venv/bin/playwright install chromium"
    )
