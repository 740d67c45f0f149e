"""The log-in of the production overlay: its page, and cookies that foreign links do not send.

A fake stands for oauth2-proxy. It handles the page and the cookies in the same way, and of OpenID
Connect it implements only the redirects.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from sim_pipeline_tests.ui.other_site import OtherSite, serving

OVERLAY = Path(__file__).parents[2] / "k8s" / "overlays" / "production"
PREFIX = "/oauth2"


def proxy_options() -> dict[str, str]:
    lines = (OVERLAY / "oauth2-proxy.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@dataclass
class LogIn:
    """Two sites from the browser's point of view: the UI with its proxy, and the issuer.

    Attributes:
        ui: address of the UI, behind the proxy.
        issuer: address of the OpenID Connect issuer; also serves a page of another site.
        requests: paths requested from the proxy, and whether the log-in cookie was sent.
    """

    ui: str = ""
    issuer: str = ""
    requests: list[tuple[str, bool]] = field(default_factory=list)


@pytest.fixture
def log_in() -> Iterator[LogIn]:
    options = proxy_options()
    session = f"session=1; Path=/; HttpOnly; SameSite={options['OAUTH2_PROXY_COOKIE_SAMESITE']}"
    check = f"csrf=1; Path=/; HttpOnly; SameSite={options['OAUTH2_PROXY_COOKIE_CSRF_SAMESITE']}"
    assert options["OAUTH2_PROXY_SKIP_PROVIDER_BUTTON"] == "false"
    page = (OVERLAY / "sign_in.html").read_text(encoding="utf-8")
    sites = LogIn()

    class Proxy(OtherSite):
        def answer(self) -> None:
            url, cookies = urlsplit(self.path), self.headers.get("Cookie", "")
            is_logged_in = "session=1" in cookies
            sites.requests.append((self.path, is_logged_in))
            parameters = {name: values[0] for name, values in parse_qs(url.query).items()}
            if url.path == f"{PREFIX}/auth":
                self.send_page("", 202 if is_logged_in else 401)
            elif url.path == f"{PREFIX}/start":
                self.redirect(f"{sites.issuer}/log-in?state={quote(parameters['rd'])}", check)
            elif url.path == f"{PREFIX}/callback":
                if "csrf=1" in cookies:
                    self.redirect(parameters["state"], session)
                else:
                    self.send_page("Unable to find a valid CSRF token", 403)
            elif is_logged_in:
                self.send_page("The UI")
            else:
                self.send_page(
                    page.replace("{{.ProxyPrefix}}", PREFIX).replace(
                        "{{.Redirect}}", quote(self.path, safe="")
                    ),
                    403,
                )

    class Issuer(OtherSite):
        def answer(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/log-in":
                self.send_page(
                    f'<form action="/answer">'
                    f'<input name="state" value="{parse_qs(url.query)["state"][0]}">'
                    f"<button>Log me in</button></form>"
                )
            elif url.path == "/answer":
                self.redirect(f"{sites.ui}{PREFIX}/callback?{url.query}")
            else:
                self.send_page(
                    f'<a href="{sites.ui}/runs?a=1">runs</a><img src="{sites.ui}/image">'
                    f'<iframe src="{sites.ui}/frame"></iframe>'
                )

    with serving(Proxy) as ui_port, serving(Issuer) as issuer_port:
        sites.ui = f"http://127.0.0.1:{ui_port}"
        sites.issuer = f"http://localhost:{issuer_port}"
        yield sites


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Page]:
    """A page in a browser context without a log-in."""
    with browser.new_context() as context:
        yield context.new_page()


def test_log_in_returns_to_the_requested_page(log_in: LogIn, visitor: Page) -> None:
    visitor.goto(f"{log_in.ui}/assets?view=a%26b")
    visitor.get_by_role("button", name="Log me in").click()
    expect(visitor.get_by_text("The UI")).to_be_visible()
    assert visitor.url == f"{log_in.ui}/assets?view=a%26b"


def test_foreign_link_does_not_send_the_log_in(log_in: LogIn, visitor: Page) -> None:
    visitor.goto(log_in.ui)
    visitor.get_by_role("button", name="Log me in").click()
    expect(visitor.get_by_text("The UI")).to_be_visible()
    visitor.goto(log_in.issuer, wait_until="load")
    log_in.requests.clear()
    visitor.reload(wait_until="load")
    visitor.get_by_role("link", name="runs").click()
    expect(visitor.get_by_text("The UI")).to_be_visible()

    requests = [request for request in log_in.requests if request[0] != "/favicon.ico"]
    # The linked page requests itself again, this time with the cookie.
    assert [sent for path, sent in requests if path == "/runs?a=1"] == [False, True]
    assert ("/image", False) in requests
    assert ("/frame", False) in requests
    assert ("/image", True) not in requests
    assert ("/frame", True) not in requests
