"""ASGI middleware that protects the UI, which has no password, from requests of other web pages.

Any page that a browser shows can send requests to any address, including this machine's. The guard
passes a request only if its Host is one of the UI's, it comes from the UI's own pages or from no
page, and its URL does not change anything. It does not control who may connect over the network:
that is the purpose of UI_HOST, or of a proxy with a login.
"""

import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import parse_qsl

from graphql import (
    FragmentDefinitionNode,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    parse,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?"
)
_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://(?P<authority>.+)")
_OWN_SITES: Final = frozenset({"same-origin", "none"})
# Prevents clickjacking: a page of another origin must not show the UI in a frame.
_FRAMES: Final = (b"x-frame-options", b"SAMEORIGIN")
_MAX_VALUE_LENGTH: Final = 200
_MAX_LOGGED_REASONS: Final = 100

# The web server's logger, which Dagster configures. This process does not configure ours.
logger = logging.getLogger("dagster-webserver")

_Host = tuple[str, int | None]


class UiGuard:
    """Passes only requests of the UI's own pages, of commands, and of followed links."""

    def __init__(self, app: ASGIApp, *, ui_host: str, allowed_hosts: Iterable[str]) -> None:
        """Put the guard before an application.

        Args:
            app: the application to guard.
            ui_host: the address or name that the UI listens on. It is also allowed as Host, unless
                it means every address.
            allowed_hosts: other names and addresses by which browsers reach the UI, without ports.
        """
        self._app = app
        # Pages of these hosts may send requests with any served Host: a proxy may replace the Host.
        # Loopback is excluded, because another port of this machine may belong to another user.
        self._allowed = {_normalize(host) for host in allowed_hosts} - _LOOPBACK
        listens_on = _normalize(ui_host)
        served = set() if _is_every_address(listens_on) else {listens_on}
        self._served = _LOOPBACK | self._allowed | served
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection to the application, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _forbid_foreign_frames(send))
            return
        status, reason = refusal
        if reason not in self._logged and len(self._logged) < _MAX_LOGGED_REASONS:
            self._logged.add(reason)
            logger.warning("Refused a request: %s", reason)
        if scope["type"] == "websocket":
            await _refuse_websocket(status, reason, scope, receive, send)
        else:
            await _answer("http.response", status, reason, send)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        """Return status and reason of a refusal, or None if the request may pass."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1:
            found = "none" if not hosts else ", ".join(map(_quoted, hosts))
            return HTTPStatus.BAD_REQUEST, f"The request must have one Host header; found: {found}."
        host = _parse_authority(hosts[0])
        if host is None or host[0] not in self._served:
            return HTTPStatus.FORBIDDEN, (
                f"The UI does not serve Host {_quoted(hosts[0])}."
                " Open it at localhost or 127.0.0.1."
                " To use another name, add that name to UI_ALLOWED_HOSTS."
            )
        reason = self._cross_site_reason(scope, host) or _url_mutation_reason(scope)
        return None if reason is None else (HTTPStatus.FORBIDDEN, reason)

    def _cross_site_reason(self, scope: Scope, host: _Host) -> str | None:
        """Return why a request counts as sent by a page of another site, or None."""
        origins = _values(scope, b"origin")
        for origin in origins:
            if not self._is_own(origin, host):
                return (
                    f"Origin {_quoted(origin)} is not the UI's own. If a proxy serves the UI there,"
                    " add that host's name to UI_ALLOWED_HOSTS."
                )
        if origins or _is_followed_link(scope):
            return None
        for site in _values(scope, b"sec-fetch-site"):
            if site not in _OWN_SITES:
                return (
                    f"Sec-Fetch-Site {_quoted(site)}: a page of another site sent this request."
                    " Open the UI's own address in the browser."
                )
        return None

    def _is_own(self, origin: str, host: _Host) -> bool:
        """Return whether an origin belongs to the UI, for a request with this host.

        The scheme is not compared, because a proxy that ends TLS changes it. If a proxy also
        changes the host, its name must be allowed.
        """
        found = _ORIGIN.fullmatch(origin)
        parsed = _parse_authority(found["authority"]) if found else None
        if found is None or parsed is None:
            return False
        default = _PORTS[found["scheme"]]
        (name, port), (host_name, host_port) = parsed, host
        same = name == host_name and (port or default) == (host_port or default)
        return same or name in self._allowed


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def _quoted(value: str) -> str:
    short = len(value) <= _MAX_VALUE_LENGTH
    return ascii(value if short else f"{value[:_MAX_VALUE_LENGTH]}...")


def _normalize(name: str) -> str:
    """Return a name or an address in lower case, without a final dot."""
    name = name.lower().removesuffix(".")
    return str(IPv6Address(name)) if _is_ipv6(name) else name


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_every_address(name: str) -> bool:
    try:
        return ip_address(name).is_unspecified
    except ValueError:
        return False


def _parse_authority(text: str) -> _Host | None:
    """Return name and port (None without a port), or None if the text is not a host."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        address = _normalize(text)
        # Some clients omit the brackets.
        return (address, None) if _is_ipv6(address) else None
    port = int(found["port"]) if found["port"] else None
    return _normalize(found["address"] or found["name"]), port


def _is_followed_link(scope: Scope) -> bool:
    """Return whether the browser opens a page of the UI in a tab: any site may link to it."""
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and _values(scope, b"sec-fetch-mode") == ["navigate"]
        and _values(scope, b"sec-fetch-dest") == ["document"]
    )


def _url_mutation_reason(scope: Scope) -> str | None:
    """Return why the URL of a request does more than read, or None.

    Dagster executes the URL's query for GET, and also for a POST of a form or of text. It takes the
    last of several `query` parameters. Here none of them may change anything.
    """
    # A route of Starlette also matches a path with a line break at its end.
    if not scope["path"].rstrip("/\n").endswith("/graphql"):
        return None
    parameters = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name, value in parameters:
        if name != "query":
            continue
        try:
            definitions = parse(value, no_location=True).definitions
        except (GraphQLError, RecursionError) as error:
            return f"The URL's parameter query is not valid GraphQL: {_first_line(error)}"
        for definition in definitions:
            if isinstance(definition, OperationDefinitionNode):
                kind = definition.operation.value
                if definition.operation is OperationType.QUERY:
                    continue
            elif isinstance(definition, FragmentDefinitionNode):
                continue
            else:
                kind = "definition"
            return (
                f"The URL's parameter query contains a {kind}; only queries are allowed in a URL."
                " Send it as JSON in the body of a POST."
            )
    return None


def _first_line(error: Exception) -> str:
    return _quoted(str(error).partition("\n")[0])


def _forbid_foreign_frames(send: Send) -> Send:
    """Add a header to each response that forbids frames in pages of other origins."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if all(name.lower() != _FRAMES[0] for name, _ in headers):
                headers.append(_FRAMES)
            message = {**message, "headers": headers}
        await send(message)

    return send_with_header


async def _refuse_websocket(
    status: HTTPStatus, reason: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Refuse a WebSocket handshake, with a text if the server supports that."""
    await receive()
    if "websocket.http.response" in scope.get("extensions", {}):
        await _answer("websocket.http.response", status, reason, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


async def _answer(kind: str, status: HTTPStatus, reason: str, send: Send) -> None:
    body = f"{reason}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        _FRAMES,
    ]
    await send({"type": f"{kind}.start", "status": status.value, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
