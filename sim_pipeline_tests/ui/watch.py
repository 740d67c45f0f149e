"""Records faults behind a page: failed requests, requests to other hosts, browser errors."""

from urllib.parse import urlsplit

from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    WebError,
    WebSocket,
)

_LOCAL = ("data", "blob", "about")
_FIRST_ERROR = 400
# The page cancelled the request, usually because the user left the page.
_CANCELLED = "net::ERR_ABORTED"


class Watch:
    """Records the faults on all pages of a browser context.

    Args:
        context: the context to watch; it has no page yet.
        origin: scheme, host and port that pages may request, such as `http://127.0.0.1:3000`.

    Attributes:
        faults: console errors, script errors, failed requests, and requests to other hosts.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.faults: list[str] = []
        self._host = urlsplit(origin).netloc
        context.on("console", self._console)
        context.on("weberror", self._script)
        context.on("request", self._request)
        context.on("requestfailed", self._failure)
        context.on("response", self._response)
        context.on("page", self._page)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _script(self, error: WebError) -> None:
        self.faults.append(f"script: {error.error}")

    def _request(self, request: Request) -> None:
        self._require_own_host(request.url)

    def _failure(self, request: Request) -> None:
        if request.failure != _CANCELLED:
            self.faults.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= _FIRST_ERROR:
            self.faults.append(
                f"failed: {response.request.method} {response.url}: {response.status}"
            )

    def _page(self, page: Page) -> None:
        page.on("websocket", self._websocket)

    def _websocket(self, websocket: WebSocket) -> None:
        self._require_own_host(websocket.url)

    def _require_own_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _LOCAL and parts.netloc != self._host:
            self.faults.append(f"other host: {url}")
