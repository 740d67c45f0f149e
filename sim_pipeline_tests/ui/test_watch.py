"""Faults that the watch records on a page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route

from sim_pipeline_tests.ui.watch import Watch

ORIGIN = "http://127.0.0.1:4000"


def answer(route: Route) -> None:
    """Act as the server, which has a page, a script and a broken path."""
    path = route.request.url.removeprefix(ORIGIN)
    if path == "/":
        route.fulfill(body="<p>A page</p>", content_type="text/html")
    elif path == "/script.js":
        route.fulfill(body="1 + 1", content_type="text/javascript")
    elif path == "/broken":
        route.abort("connectionreset")
    else:
        route.fulfill(status=404)


@pytest.fixture
def watched(browser: Browser) -> Iterator[tuple[Page, Watch]]:
    with browser.new_context() as context:
        context.route(f"{ORIGIN}/**", answer)
        watch = Watch(context, ORIGIN)
        page = context.new_page()
        page.goto(ORIGIN)
        yield page, watch


def test_correct_page_has_no_faults(watched: tuple[Page, Watch]) -> None:
    page, watch = watched
    page.evaluate("fetch('/script.js')")
    page.evaluate("fetch('data:text/plain,text')")
    page.evaluate("console.warn('a warning')")
    assert watch.faults == []


@pytest.mark.parametrize(
    ("script", "event", "fault"),
    [
        ("console.error('wrong')", "console", "console: wrong"),
        ("setTimeout(() => { throw new Error('thrown') })", "pageerror", "script: thrown"),
        ("fetch('/missing')", "response", f"failed: GET {ORIGIN}/missing: 404"),
        (
            "fetch('/broken')",
            "requestfailed",
            f"failed: GET {ORIGIN}/broken: net::ERR_CONNECTION_RESET",
        ),
        ("fetch('https://example.com/a')", "request", "other host: https://example.com/a"),
        ("fetch('http://192.0.2.1/a')", "request", "other host: http://192.0.2.1/a"),
        ("fetch('http://127.0.0.1:4001/a')", "request", "other host: http://127.0.0.1:4001/a"),
        (
            "new Image().src = 'https://example.com/a.png'",
            "request",
            "other host: https://example.com/a.png",
        ),
        ("new WebSocket('ws://example.com/a')", "websocket", "other host: ws://example.com/a"),
    ],
)
def test_error_is_recorded_as_fault(
    watched: tuple[Page, Watch], script: str, event: str, fault: str
) -> None:
    page, watch = watched
    with page.expect_event(event):
        page.evaluate(f"() => {{ {script} }}")
    assert fault in watch.faults


def test_other_hosts_are_unreachable(watched: tuple[Page, Watch]) -> None:
    page, _ = watched
    for host in ("example.com", "192.0.2.1"):
        with page.expect_event("requestfailed") as failed:
            page.evaluate(f"() => {{ fetch('http://{host}/a').catch(() => null) }}")
        assert failed.value.failure == "net::ERR_NAME_NOT_RESOLVED"
