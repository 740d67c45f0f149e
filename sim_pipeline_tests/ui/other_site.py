"""Simple web servers on other ports of this machine, which play the role of other sites."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve on a free port of 127.0.0.1, and yield the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class OtherSite(http.server.BaseHTTPRequestHandler):
    """Answers GET with a page; a subclass overrides `answer`. Logs nothing."""

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.send_page("<p>A page of another site</p>")

    def send_page(self, body: str, status: int = 200) -> None:
        content = f"<!doctype html><title>A page</title>{body}".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def redirect(self, location: str, *cookies: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        for cookie in cookies:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
