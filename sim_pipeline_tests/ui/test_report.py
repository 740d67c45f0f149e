"""The report in a browser: no error, no request, and no sideways scrolling of the page."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from sim_pipeline_tests.support.whole_service import Service


@pytest.mark.parametrize("size", [(1280, 800), (360, 740)], ids=["desktop", "phone"])
def test_report_opens_without_errors_and_requests(
    browser: Browser, service: Service, tmp_path: Path, size: tuple[int, int]
) -> None:
    file = tmp_path / "report.html"
    subprocess.run(
        [sys.executable, "-m", "sim_pipeline", "report", "--output", file],
        cwd=service.directory,
        check=True,
    )
    page = browser.new_page(viewport=ViewportSize(width=size[0], height=size[1]))
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            problems.append(request.url) if not request.url.startswith(("file:", "data:")) else None
        ),
    )
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", level=2)).to_have_count(6)
    drawn = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(drawn)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert problems == []
    page.close()
