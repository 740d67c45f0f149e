"""A browser and a whole service for the session; a page, watched, for each test."""

import os
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from sim_pipeline_tests.support.settings_environment import clear_settings
from sim_pipeline_tests.support.whole_service import Service, start_service, write_env_file
from sim_pipeline_tests.ui.browser import NoBrowserError, open_browser, open_context

MODELS = ("GPT-4o", "Llama-3.1-8B")
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let `page` know whether its test failed."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. Without one the tests are skipped; with CI=true, where one is to be, they fail."""
    try:
        with open_browser() as browser:
            yield browser
    except NoBrowserError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def service(
    browser: Browser,  # noqa: ARG001 - without one, nothing is started
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A whole service with ten days to simulate, of which it does the latest window by itself."""
    directory = tmp_path_factory.mktemp("service")
    write_env_file(
        directory,
        {
            "LLM_MODELS_STR": ",".join(MODELS),
            "SIMULATION_INTERVAL": 3600,
            "SIMULATION_START": (TODAY - timedelta(days=10)).isoformat(),
            # What is simulated is what a test asks for.
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
    """Where the UI is: scheme, host and port."""
    return f"http://127.0.0.1:{service.settings.ui_port}"


@pytest.fixture
def page(
    browser: Browser, origin: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """A page of a browser that knows nothing yet; the test fails if anything is wrong on it.

    Of a test that fails, a picture and a trace are kept.
    """
    viewport: ViewportSize = {"width": 1280, "height": 800}
    with open_context(browser, origin, viewport) as (context, watch):
        context.tracing.start(screenshots=True, snapshots=True)
        page = context.new_page()
        yield page
        if request.node.stash[_failed] or watch.faults:
            picture, trace = tmp_path / "page.png", tmp_path / "trace.zip"
            page.screenshot(path=picture)
            context.tracing.stop(path=trace)
            print(  # noqa: T201 - pytest shows it with the failure
                f"The page as it was: {picture}\n"
                f"What was done on it: .venv/bin/playwright show-trace {trace}"
            )
    assert not watch.faults, "\n".join(watch.faults)
