"""A headless browser for the UI tests and the README's screenshots.

This module chooses, starts and restricts the browser. `dagster_ui` has the actions in the UI.
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
# On a busy machine a page takes seconds.
_TIMEOUT_MS = 60_000
# Requests to any other host or address fail to resolve, those of the browser itself included.
# Browsers treat localhost and 127.0.0.1 as different sites.
_THIS_MACHINE_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


class NoBrowserError(RuntimeError):
    """No browser is installed; the message says what to install."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium or Chrome, restricted to this machine, and stop it at the end.

    Raises:
        NoBrowserError: neither is in the PATH, and Playwright has not installed one.
    """
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=_find(playwright),
            # Chromium refuses to start as root with its sandbox.
            chromium_sandbox=os.geteuid() != 0,
            args=[_THIS_MACHINE_ONLY],
        ) as browser,
    ):
        yield browser


@contextmanager
def open_context(
    browser: Browser, origin: str, viewport: ViewportSize, scale: float = 1.0
) -> Iterator[tuple[BrowserContext, Watch]]:
    """Open a browser context without cookies or cache, in English and UTC.

    Args:
        browser: the browser.
        origin: scheme, host and port of the UI.
        viewport: page size, in CSS pixels.
        scale: screen pixels per CSS pixel.

    Yields:
        The context to open pages in, and the watch that records their faults.
    """
    expect.set_options(timeout=_TIMEOUT_MS)
    with browser.new_context(
        viewport=viewport, device_scale_factor=scale, locale="en-US", timezone_id="UTC"
    ) as context:
        context.set_default_timeout(_TIMEOUT_MS)
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
