"""An ASGI guard before the UI, which asks for no password: it refuses what another page may send.

A browser sends any page's requests to any address, this machine's included. The guard lets a
request through if it names a host that the UI is reached by, comes from the UI's own pages or from
no page at all, and does not change anything by its URL. What reaches the UI from elsewhere, by the
network, is not its business: that is up to UI_HOST, or to a proxy with a log-in.
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
# A page in a frame of another could be laid under what its user clicks on.
_FRAMES: Final = (b"x-frame-options", b"SAMEORIGIN")
_SHOWN: Final = 200
_LOGGED: Final = 100

# Dagster's own logger, whose lines have their level in front: ours would be set up by nobody here.
logger = logging.getLogger("dagster-webserver")

_Host = tuple[str, int | None]


class UiGuard:
    """Passes on to an application what its own pages, commands and links to it may send."""

    def __init__(self, app: ASGIApp, *, ui_host: str, allowed_hosts: Iterable[str]) -> None:
        """Put the guard before an application.

        Args:
            app: What is guarded.
            ui_host: What it listens on; where that is one address or name, it is reached by it.
            allowed_hosts: Names and addresses by which browsers reach it besides, without ports.
        """
        self._app = app
        # What a page of a proxy's own host may ask for, whatever Host the proxy passes on. Another
        # port of this machine may be another user's.
        self._allowed = {_plain(host) for host in allowed_hosts} - _LOOPBACK
        listens_on = _plain(ui_host)
        served = set() if _is_every_address(listens_on) else {listens_on}
        self._served = _LOOPBACK | self._allowed | served
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a connection, or have the application do it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _without_foreign_frames(send))
            return
        status, reason = refusal
        if reason not in self._logged and len(self._logged) < _LOGGED:
            self._logged.add(reason)
            logger.warning("Refused a request: %s", reason)
        if scope["type"] == "websocket":
            await _refuse_websocket(status, reason, scope, receive, send)
        else:
            await _answer("http.response", status, reason, send)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        """Return status and reason if a request is not to be passed on."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1:
            found = "none" if not hosts else ", ".join(map(_shown, hosts))
            return HTTPStatus.BAD_REQUEST, f"The request must have one Host header; it has {found}."
        host = _parse_authority(hosts[0])
        if host is None or host[0] not in self._served:
            return HTTPStatus.FORBIDDEN, (
                f"The UI does not serve Host {_shown(hosts[0])}. Open it at localhost or 127.0.0.1;"
                " if it is reached by another name, add that name to UI_ALLOWED_HOSTS."
            )
        reason = self._foreign(scope, host) or _changes_by_url(scope)
        return None if reason is None else (HTTPStatus.FORBIDDEN, reason)

    def _foreign(self, scope: Scope, host: _Host) -> str | None:
        """Return why a request counts as another page's, None if it does not."""
        origins = _values(scope, b"origin")
        for origin in origins:
            if not self._is_own(origin, host):
                return (
                    f"Origin {_shown(origin)} is not the UI's own. If the UI is reached there, by a"
                    " proxy, add that host's name to UI_ALLOWED_HOSTS."
                )
        if origins or _is_followed_link(scope):
            return None
        for site in _values(scope, b"sec-fetch-site"):
            if site not in _OWN_SITES:
                return (
                    f"Sec-Fetch-Site {_shown(site)} says that a page of another site asks for this."
                    " Open the UI's own address in the browser."
                )
        return None

    def _is_own(self, origin: str, host: _Host) -> bool:
        """Tell whether an origin is that of a page of the UI, for a request with this host.

        A proxy that ends TLS changes the scheme; where it changes the host too, it is to be allowed
        by its name.
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


def _shown(value: str) -> str:
    return ascii(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")


def _plain(name: str) -> str:
    """Return a name or an address as it is compared: in small letters, without a dot at its end."""
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
    """Return name and port, the latter None if not named; None if it is no host at all."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        address = _plain(text)
        # Some clients leave out the brackets.
        return (address, None) if _is_ipv6(address) else None
    port = int(found["port"]) if found["port"] else None
    return _plain(found["address"] or found["name"]), port


def _is_followed_link(scope: Scope) -> bool:
    """Tell whether the browser opens a page of the UI by itself: a link to it may be anywhere."""
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and _values(scope, b"sec-fetch-mode") == ["navigate"]
        and _values(scope, b"sec-fetch-dest") == ["document"]
    )


def _changes_by_url(scope: Scope) -> str | None:
    """Return why the URL of a request asks for more than to read, None if it does not.

    Dagster executes what the URL names not only for GET: also for a POST of a form or of text. It
    takes the last of several `query` parameters; here none may be a change.
    """
    # A route of Starlette's also takes a path with a line break at its end.
    if not scope["path"].rstrip("/\n").endswith("/graphql"):
        return None
    parameters = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name, value in parameters:
        if name != "query":
            continue
        try:
            definitions = parse(value, no_location=True).definitions
        except (GraphQLError, RecursionError) as error:
            return f"The URL's parameter query is no GraphQL that can be read: {_first_line(error)}"
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
                f"The URL's parameter query holds a {kind}; a URL may only query."
                " Send it as JSON in the body of a POST."
            )
    return None


def _first_line(error: Exception) -> str:
    return _shown(str(error).partition("\n")[0])


def _without_foreign_frames(send: Send) -> Send:
    """Have each answer forbid that a page of another origin shows it in a frame."""

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
    """Answer a handshake with a refusal, in words if the server can."""
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
