"""A page of another site, open in the browser of somebody who uses the UI, can't operate it."""

import http.client
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from sim_pipeline_tests.support.whole_service import Service
from sim_pipeline_tests.ui.dagster_ui import graph_node, open_graph
from sim_pipeline_tests.ui.other_site import Site, serving

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
# Each is a function of the UI's address and of a mutation, done once the browser is.
ATTEMPTS = {
    "image": """([ui, mutation]) => new Promise(done => {
        const image = new Image();
        image.onload = image.onerror = done;
        image.src = `${ui}/graphql?query=${encodeURIComponent(mutation)}`;
    })""",
    "GET": """([ui, mutation]) =>
        fetch(`${ui}/graphql?query=${encodeURIComponent(mutation)}`, {mode: "no-cors"})
            .catch(() => {})""",
    # Dagster takes this for JSON, the browser for a text that needs no permission.
    "POST of text": """([ui, mutation]) => fetch(`${ui}/graphql`, {
        method: "POST", mode: "no-cors", body: JSON.stringify({query: mutation}),
        headers: {"Content-Type": "text/plain; application/json"},
    }).catch(() => {})""",
    "POST of nothing": """([ui, mutation]) => fetch(
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
    """A page at another port, in the UI's own site and in another one."""
    with serving(Site) as port, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://{request.param}:{port}/")
        yield page


@pytest.fixture
def schedule(service: Service) -> Iterator[str]:
    """The id of the schedule's state; it is running, and is so again afterwards."""
    identity, status = state(service)
    assert status == "RUNNING"
    yield identity
    if state(service)[1] != "RUNNING":
        service.graphql(START)


def state(service: Service) -> tuple[str, str]:
    """Return the id of the schedule's state, and its status."""
    found = service.graphql(SCHEDULE)["scheduleOrError"]["scheduleState"]
    return found["id"], found["status"]


def stop(schedule: str) -> str:
    return f"mutation {{ stopRunningSchedule(id: {json.dumps(schedule)}) {{ __typename }} }}"


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_foreign_page_stops_no_schedule(
    foreign: Page, origin: str, service: Service, schedule: str, attempt: str
) -> None:
    foreign.evaluate(ATTEMPTS[attempt], [origin, stop(schedule)])
    assert state(service)[1] == "RUNNING"


def test_a_foreign_page_opens_no_websocket(foreign: Page, origin: str) -> None:
    assert foreign.evaluate(WEBSOCKET, origin) == "refused"


def test_a_foreign_page_leads_to_the_ui_but_cannot_frame_it(foreign: Page, origin: str) -> None:
    foreign.set_content(f'<iframe src="{origin}/"></iframe><a href="{origin}/assets">assets</a>')
    assert foreign.frames[1].url.startswith("chrome-error:")
    foreign.get_by_role("link", name="assets").click()
    expect(foreign.get_by_role("navigation").first).to_be_visible()


def test_the_ui_s_own_pages_still_change_and_listen(
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


def test_a_name_that_leads_to_this_machine_is_not_enough(origin: str) -> None:
    connection = http.client.HTTPConnection(origin.removeprefix("http://"), timeout=60)
    connection.request("GET", "/", headers={"Host": "rebound.example.com"})
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"UI_ALLOWED_HOSTS" in answer.read()
    connection.close()
