"""The health check of a container: its requests, its output and its exit status."""

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import pytest

from sim_pipeline.entrypoints.healthcheck import main
from sim_pipeline_tests.support.ports import free_port


class IPv6Server(http.server.HTTPServer):
    """A server on an IPv6 address."""

    address_family = socket.AF_INET6


@contextmanager
def ui(
    status: HTTPStatus,
    path: str = "/server_info",
    host: str = "127.0.0.1",
    server_class: type[http.server.HTTPServer] = http.server.HTTPServer,
) -> Iterator[int]:
    """Serve a path with a status and any other path with 404; yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with server_class((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "expected"), [(HTTPStatus.OK, 0), (HTTPStatus.INTERNAL_SERVER_ERROR, 1)]
)
def test_exit_status_follows_http_status(
    status: HTTPStatus,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ui(status) as port:
        monkeypatch.setenv("UI_PORT", str(port))
        assert main() == expected
    assert capsys.readouterr().out == f"The UI on port {port} answers with status {status}\n"


def test_path_prefix_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UI_PATH_PREFIX", "/simulation")
    with ui(HTTPStatus.OK, "/simulation/server_info") as port:
        monkeypatch.setenv("UI_PORT", str(port))
        assert main() == 0


def test_ui_on_ipv6_only_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with ui(HTTPStatus.OK, host="::1", server_class=IPv6Server) as port:
        monkeypatch.setenv("UI_PORT", str(port))
        assert main() == 0


def test_closed_port_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("UI_PORT", str(port))
    assert main() == 1
    assert f"The UI on port {port} does not answer" in capsys.readouterr().out


def test_default_port_is_3000(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UI_PORT", "")
    main()
    assert "The UI on port 3000 " in capsys.readouterr().out


def test_imports_standard_library_only() -> None:
    script = (
        "import sys, sim_pipeline.entrypoints.healthcheck;"
        "print({name.partition('.')[0] for name in sys.modules}"
        " - {*sys.stdlib_module_names, '__main__', 'sim_pipeline'})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
