"""A page of another site in the user's browser cannot operate the UI."""

import http.client
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from sim_pipeline_tests.support.whole_service import Service
from sim_pipeline_tests.ui.dagster_ui import graph_node, open_graph
from sim_pipeline_tests.ui.other_site import OtherSite, serving

pytestmark = pytest.mark.timeout(400)

SELECTOR = """scheduleSelector: {
    repositoryName: "__repository__"
    repositoryLocationName: "sim_pipeline"
    scheduleName: "simulation_schedule"
}"""
SCHEDULE = (
    f"{{ scheduleOrError({SELECTOR}) {{ ... on Schedule {{ scheduleState {{ id status }} }} }} }}"
)
START = f"mutation {{ startSchedule({SELECTOR}) {{ __typename }} }}"
# Functions of the UI's address and a mutation. Each returns when the browser has sent its request.
ATTEMPTS = {
    "image": """([ui, mutation]) => new Promise(done => {
        const image = new Image();
        image.onload = image.onerror = done;
        image.src = `${ui}/graphql?query=${encodeURIComponent(mutation)}`;
    })""",
    "GET": """([ui, mutation]) =>
        fetch(`${ui}/graphql?query=${encodeURIComponent(mutation)}`, {mode: "no-cors"})
            .catch(() => {})""",
    # Dagster parses this as JSON; for the browser it is text, which needs no CORS preflight.
    "POST with text body": """([ui, mutation]) => fetch(`${ui}/graphql`, {
        method: "POST", mode: "no-cors", body: JSON.stringify({query: mutation}),
        headers: {"Content-Type": "text/plain; application/json"},
    }).catch(() => {})""",
    "POST without body": """([ui, mutation]) => fetch(
        `${ui}/graphql?query=${encodeURIComponent(mutation)}`, {method: "POST", mode: "no-cors"}
    ).catch(() => {})""",
    "form": """([ui, mutation]) => new Promise(done => {
        document.body.insertAdjacentHTML("beforeend",
            '<iframe name="target"></iframe><form method="post" target="target"></form>');
        document.querySelector("iframe").onload = done;
        const form = document.querySelector("form");
        form.action = `${ui}/graphql?query=${encodeURIComponent(mutation)}`;
        form.submit();
    })""",
}
WEBSOCKET = """ui => new Promise(done => {
    const socket = new WebSocket(`${ui.replace("http", "ws")}/graphql`, "graphql-ws");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
})"""


@pytest.fixture(params=["127.0.0.1", "localhost"])
def foreign(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page on another port: of the UI's own site (127.0.0.1), and of another site (localhost)."""
    with serving(OtherSite) as port, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://{request.param}:{port}/")
        yield page


@pytest.fixture
def schedule(service: Service) -> Iterator[str]:
    """The id of the schedule's state. The schedule runs, and is started again after the test."""
    identity, status = state(service)
    assert status == "RUNNING"
    yield identity
    if state(service)[1] != "RUNNING":
        service.graphql(START)


def state(service: Service) -> tuple[str, str]:
    """Return the id of the schedule's state and its status."""
    found = service.graphql(SCHEDULE)["scheduleOrError"]["scheduleState"]
    return found["id"], found["status"]


def stop(schedule: str) -> str:
    return f"mutation {{ stopRunningSchedule(id: {json.dumps(schedule)}) {{ __typename }} }}"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_foreign_page_cannot_stop_schedule(
    foreign: Page, origin: str, service: Service, schedule: str, attempt: str
) -> None:
    foreign.evaluate(ATTEMPTS[attempt], [origin, stop(schedule)])
    assert state(service)[1] == "RUNNING"


def test_foreign_page_cannot_open_websocket(foreign: Page, origin: str) -> None:
    assert foreign.evaluate(WEBSOCKET, origin) == "refused"


def test_foreign_page_can_link_to_ui_but_not_frame_it(foreign: Page, origin: str) -> None:
    foreign.set_content(f'<iframe src="{origin}/"></iframe><a href="{origin}/assets">assets</a>')
    assert foreign.frames[1].url.startswith("chrome-error:")
    foreign.get_by_role("link", name="assets").click()
    expect(foreign.get_by_role("navigation").first).to_be_visible()


def test_ui_pages_can_mutate_and_open_websocket(
    page: Page, origin: str, service: Service, schedule: str
) -> None:
    open_graph(page, origin)
    expect(graph_node(page, "metric_frames")).to_be_visible()
    assert page.evaluate(WEBSOCKET, origin) == "open"
    send = """([ui, query]) => fetch(`${ui}/graphql`, {
        method: "POST", body: JSON.stringify({query}),
        headers: {"Content-Type": "application/json"},
    }).then(answer => answer.status)"""
    assert page.evaluate(send, [origin, stop(schedule)]) == 200
    assert state(service)[1] == "STOPPED"
    assert page.evaluate(send, [origin, START]) == 200
    assert state(service)[1] == "RUNNING"


def test_unknown_host_name_is_refused(origin: str) -> None:
    connection = http.client.HTTPConnection(origin.removeprefix("http://"), timeout=60)
    connection.request("GET", "/", headers={"Host": "rebound.example.com"})
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"UI_ALLOWED_HOSTS" in answer.read()
    connection.close()
