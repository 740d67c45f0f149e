"""Fixtures: a browser and a whole service for the package, a watched page for each test.

The browser ends with the package. While it is open, Playwright's event loop counts as running in
this thread, and no other test could call `asyncio.run`.
"""

import os
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from sim_pipeline_tests.conftest import clear_settings
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file
from sim_pipeline_tests.ui.browser import NoBrowserError, open_browser, open_context

MODELS = ("GPT-4o", "Llama-3.1-8B")
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record for the fixture `page` whether the test failed."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. If it is missing, the tests are skipped, or fail if CI=true."""
    try:
        with open_browser() as browser:
            yield browser
    except NoBrowserError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="package")
def service(
    browser: Browser,  # noqa: ARG001 - without a browser, do not start the service
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A whole service with ten days of windows. Its schedule simulates only the latest one."""
    directory = tmp_path_factory.mktemp("service")
    write_env_file(
        directory,
        {
            "LLM_MODELS_STR": ",".join(MODELS),
            "SIMULATION_INTERVAL": 3600,
            "SIMULATION_START": (TODAY - timedelta(days=10)).isoformat(),
            # No catch-up: the tests request what they need.
            "CATCH_UP_HOURS": 0,
        },
    )
    with pytest.MonkeyPatch.context() as start:
        clear_settings(start)
        start.chdir(directory)
        service = start_service(directory)
    service.read_until("Ready.")
    yield service
    assert service.interrupt() == 0


@pytest.fixture
def origin(service: Service) -> str:
    """The UI's scheme, host and port."""
    return f"http://127.0.0.1:{service.settings.ui_port}"


@pytest.fixture
def page(
    browser: Browser, origin: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A page in a fresh browser context; the test fails if the watch finds a fault on it.

    If a test fails, a screenshot and a trace are kept.
    """
    viewport: ViewportSize = {"width": 1280, "height": 800}
    with open_context(browser, origin, viewport) as (context, watch):
        context.tracing.start(screenshots=True, snapshots=True)
        page = context.new_page()
        yield page
        if request.node.stash[_failed] or watch.faults:
            screenshot, trace = tmp_path / "page.png", tmp_path / "trace.zip"
            page.screenshot(path=screenshot)
            context.tracing.stop(path=trace)
            print(  # noqa: T201 - pytest shows it with the failure
                f"Screenshot: {screenshot}\nTrace: .venv/bin/playwright show-trace {trace}"
            )
    assert not watch.faults, "\n".join(watch.faults)
