"""The UI guard: which requests reach the application, and what refusals say."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest
from starlette.types import Message, Receive, Scope, Send

from sim_pipeline.dagster_instance.ui_guard import UiGuard

MUTATION = "mutation { launchRun }"
PAGE = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
Headers = Sequence[tuple[str, str]]


async def application(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer any request or handshake."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})


def ask(
    headers: Headers,
    target: str = "/",
    *,
    method: str = "GET",
    kind: str = "http",
    ui_host: str = "127.0.0.1",
    allowed: Sequence[str] = (),
    extensions: Sequence[str] = (),
) -> list[Message]:
    """Send a request to the guard; return the messages of the answer."""
    path, _, query = target.partition("?")
    scope: dict[str, Any] = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "extensions": {name: {} for name in extensions},
    }
    if kind == "http":
        scope["method"] = method
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(UiGuard(application, ui_host=ui_host, allowed_hosts=allowed)(scope, receive, send))
    return sent


def status(sent: list[Message]) -> int:
    return int(sent[0]["status"])


def text(sent: list[Message]) -> str:
    return bytes(sent[1]["body"]).decode()


def host(value: str, **others: str) -> Headers:
    return [("host", value), *((name.replace("_", "-"), value) for name, value in others.items())]


@pytest.mark.parametrize(
    ("value", "ui_host", "allowed"),
    [
        ("localhost", "127.0.0.1", ()),
        ("LocalHost.:3000", "127.0.0.1", ()),
        ("127.0.0.1:", "127.0.0.1", ()),
        ("[::1]:3000", "127.0.0.1", ()),
        ("[0:0:0:0:0:0:0:1]", "127.0.0.1", ()),
        ("::1", "127.0.0.1", ()),
        ("192.0.2.7:3000", "192.0.2.7", ()),
        ("[2001:DB8::7]:3000", "2001:db8:0::7", ()),
        ("ui.example.com", "0.0.0.0", ("UI.example.com.",)),  # noqa: S104
        ("[2001:db8::8]", "::", ("2001:db8::8",)),
    ],
)
def test_own_hosts_are_served(value: str, ui_host: str, allowed: Sequence[str]) -> None:
    assert text(ask(host(value), ui_host=ui_host, allowed=allowed)) == "served"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("value", "ui_host"),
    [
        ("rebound.example.com:3000", "127.0.0.1"),
        ("localhost.example.com", "127.0.0.1"),
        ("example.com@localhost", "127.0.0.1"),
        ("localhost/", "127.0.0.1"),
        ("localhost:a", "127.0.0.1"),
        ("0.0.0.0:3000", "0.0.0.0"),  # noqa: S104
        ("[::]:3000", "::"),
        ("10.0.0.5:3000", "0.0.0.0"),  # noqa: S104
        ("", "127.0.0.1"),
        ("Gr\xf6\xdfe", "127.0.0.1"),
    ],
)
def test_other_host_is_refused_and_named(kind: str, value: str, ui_host: str) -> None:
    sent = ask(host(value), ui_host=ui_host, kind=kind, extensions=["websocket.http.response"])
    assert status(sent) == 403
    assert f"Host {value!a}." in text(sent)
    assert "UI_ALLOWED_HOSTS" in text(sent)


@pytest.mark.parametrize(
    ("headers", "found"),
    [([], "none"), ([("host", "localhost"), ("host", "evil")], "'localhost', 'evil'")],
)
def test_request_needs_exactly_one_host(headers: Headers, found: str) -> None:
    sent = ask(headers)
    assert status(sent) == 400
    assert found in text(sent)


@pytest.mark.parametrize(
    ("value", "origin", "allowed"),
    [
        ("127.0.0.1:3000", "http://127.0.0.1:3000", ()),
        ("localhost", "http://localhost", ()),
        ("localhost:80", "http://localhost", ()),
        ("[::1]:3000", "http://[::1]:3000", ()),
        # TLS ends at a proxy, which keeps the host or replaces it by its own address.
        ("ui.example.com", "https://ui.example.com", ("ui.example.com",)),
        ("ui.example.com:443", "https://ui.example.com", ("ui.example.com",)),
        ("ui.example.com", "https://UI.example.com", ("ui.example.com",)),
        ("127.0.0.1:3000", "https://ui.example.com:8443", ("ui.example.com",)),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_own_pages_are_served(kind: str, value: str, origin: str, allowed: Sequence[str]) -> None:
    sent = ask(host(value, origin=origin), kind=kind, method="POST", allowed=allowed)
    assert sent[0]["type"] in ("http.response.start", "websocket.accept")
    assert kind == "websocket" or status(sent) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example.com",
        "http://127.0.0.1",
        "http://127.0.0.1:3001",
        "http://localhost:3000",
        "http://127.0.0.1:3000.evil.example.com",
        "http://evil.example.com#127.0.0.1:3000",
        "chrome-extension://127.0.0.1:3000",
        "127.0.0.1:3000",
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("allowed", [(), ("localhost", "127.0.0.1", "ui.example.com")])
def test_other_origin_is_refused_and_named(kind: str, origin: str, allowed: Sequence[str]) -> None:
    sent = ask(
        host("127.0.0.1:3000", origin=origin),
        method="POST",
        kind=kind,
        allowed=allowed,
        extensions=["websocket.http.response"],
    )
    assert status(sent) == 403
    assert f"Origin {origin!a} " in text(sent)
    assert "UI_ALLOWED_HOSTS" in text(sent)


def test_second_origin_is_checked_too() -> None:
    own, other = "http://localhost", "http://evil.example.com"
    sent = ask([("host", "localhost"), ("origin", own), ("origin", other)])
    assert status(sent) == 403


@pytest.mark.parametrize(
    ("headers", "method", "expected"),
    [
        ({}, "POST", 200),
        ({"sec-fetch-site": "same-origin"}, "POST", 200),
        ({"sec-fetch-site": "none", **PAGE}, "GET", 200),
        ({"sec-fetch-site": "cross-site", **PAGE}, "GET", 200),
        ({"sec-fetch-site": "same-site", **PAGE}, "HEAD", 200),
        ({"sec-fetch-site": "cross-site", **PAGE}, "POST", 403),
        ({"sec-fetch-site": "cross-site", **PAGE, "sec-fetch-dest": "iframe"}, "GET", 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "GET", 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, "GET", 403),
        ({"sec-fetch-site": "something-new"}, "GET", 403),
    ],
)
def test_other_sites_may_only_link(headers: dict[str, str], method: str, expected: int) -> None:
    sent = ask([("host", "localhost"), *headers.items()], method=method)
    assert status(sent) == expected
    assert expected == 200 or f"Sec-Fetch-Site {headers['sec-fetch-site']!r}" in text(sent)


@pytest.mark.parametrize("path", ["/graphql", "/simulation/graphql", "/graphql/", "/graphql\n"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (f"query={quote(MUTATION)}", "mutation"),
        (f"query={MUTATION.replace(' ', '+')}", "mutation"),
        ("%71uery=%6dutation%7Ba%7D", "mutation"),
        (f"query={quote('# query' + chr(10) + MUTATION)}", "mutation"),
        (f"query={quote('query A { a } mutation B { b }')}&operationName=A", "mutation"),
        (f"query={quote('fragment F on M { b } mutation { ...F }')}", "mutation"),
        (f"query={{a}}&query={quote(MUTATION)}", "mutation"),
        (f"query={quote(MUTATION)}&query={{a}}", "mutation"),
        (f"query={quote('subscription { a }')}", "subscription"),
        (f"query={quote('type Query { a: Int }')}", "definition"),
    ],
)
def test_url_with_mutation_is_refused(path: str, method: str, query: str, kind: str) -> None:
    sent = ask(host("localhost"), f"{path}?{query}", method=method)
    assert status(sent) == 403
    assert f"contains a {kind};" in text(sent)


@pytest.mark.parametrize(
    "query", [quote("query {"), quote("{" * 5_000), "", "%ff", quote("mutationn { a }")]
)
def test_url_with_invalid_graphql_is_refused(query: str) -> None:
    sent = ask(host("localhost"), f"/graphql?query={query}")
    assert status(sent) == 403
    assert "is not valid GraphQL" in text(sent)


@pytest.mark.parametrize(
    "target",
    [
        "/graphql",
        "/graphql?query={a}",
        f"/graphql?query={quote('query A { a } fragment F on Q { b } query B { ...F }')}",
        f"/graphql?variables={quote(MUTATION)}",
        f"/assets?query={quote(MUTATION)}",
    ],
)
def test_url_with_query_is_served(target: str) -> None:
    assert text(ask(host("localhost"), target)) == "served"


def test_handshake_is_refused_without_text_support() -> None:
    sent = ask(host("evil"), kind="websocket")
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("value", ["localhost", "evil"])
def test_answers_forbid_foreign_frames(value: str) -> None:
    headers = dict(ask(host(value))[0]["headers"])
    assert headers[b"x-frame-options"] == b"SAMEORIGIN"


def test_lifespan_is_passed_on() -> None:
    assert ask([], kind="lifespan") == []


def test_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = UiGuard(application, ui_host="127.0.0.1", allowed_hosts=())

    async def ignore(_: Message) -> None:
        pass

    async def nothing() -> Message:
        return {}

    scope = {"type": "http", "path": "/", "query_string": b"", "method": "GET"}
    with caplog.at_level(logging.WARNING, "dagster-webserver"):
        for number in (1, 1, *range(200)):
            headers = [(b"host", f"evil{number}\n".encode())]
            asyncio.run(guard({**scope, "headers": headers}, nothing, ignore))
    assert "Host 'evil1'" in caplog.messages[0]
    assert len(caplog.messages) == 100
    assert not any("\n" in message for message in caplog.messages)
