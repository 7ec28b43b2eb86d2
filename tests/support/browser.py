"""A real Chromium on the page of a real router: opening it, what must never happen on it, the accessibility checker.

Invariant: a page that was opened here has sent requests only to its router, and has caused no violation of its policy and no error;
otherwise its test fails.
"""

import contextlib
import importlib.util
import runpy
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import REPOSITORY, Router

AXE = REPOSITORY / "build" / "axe.js"
DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a camera and a microphone, which pages may use
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--font-render-hinting=none", *DEVICES)
TIMEOUT_MS = 20_000  # for actions that take milliseconds on a quiet machine
# Conversations are named by the model where a test says so: the request would come between the ones that tests look at.
NO_NAMES = "try { localStorage['fastrouter.naming'] ??= 'false'; } catch {}"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser for many tests. Skips them if there is none."""
    found = runpy.run_path(str(REPOSITORY / "packaging" / "chromium.py"))["find"]()
    if found is None:
        pytest.skip("no Chromium: install Debian's `chromium`, or name one in $CHROMIUM")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: it is in the extra `test`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One browser tab with a separate profile. `page` is Playwright's."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.add_init_script(NO_NAMES)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.origins: set[str] = set()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"thrown: {error}"))
        self.page.on("request", self._on_request)

    def open(self, router: Router, path: str = "/") -> Any:
        self.origins.add(urlsplit(router.url).netloc)
        self.page.goto(router.url + path)
        return self.page

    def close(self) -> None:
        """Idempotent. Fails if something forbidden has happened on the page."""
        self.context.close()
        problems, self.problems = self.problems, []
        assert not problems, problems

    def _on_console(self, message: Any) -> None:
        # An answer of 4xx or 5xx is not a fault of the page: the browser logs each as an error.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.problems.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc not in self.origins:
            self.problems.append(f"asked another site: {request.url}")


def axe_source() -> str:
    """axe-core, downloaded once. Skips the test if that is not possible."""
    if not AXE.exists():
        script = runpy.run_path(str(REPOSITORY / "packaging" / "vendor_web.py"))
        try:
            script["fetch_axe"](AXE)
        except SystemExit as error:
            pytest.skip(f"axe-core is not in {AXE.parent.name}/ and cannot be fetched: {error}")
    return AXE.read_text()


def violations(page: Any) -> list[str]:
    """What axe calls serious or critical, one line each."""
    page.evaluate(axe_source())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
