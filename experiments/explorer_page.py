"""The page of ``fastgan explore`` in a headless browser: what changes when a slider is moved, and a picture of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 60  # for an answer of the page, on a machine that does other things as well


class Visit:
    """A page that is open in a browser.

    Attributes:
        page: playwright's.
        foreign: addresses beyond the page's own host that it asked for.
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.foreign: list[str] = []
        host = urlsplit(address).netloc
        page.on("request", lambda request: self._note(request.url, host))
        page.goto(address)
        self.image_source()

    def image_source(self) -> str:
        """Where the shown image comes from, which is another for every image."""
        return self.page.locator("img[src*='/file=']").first.get_attribute("src", timeout=_SECONDS * 1000)

    def set_number(self, label: str, value: float) -> str:
        """Types a number into the field of that label and waits for the image that comes of it; returns its source."""
        before = self.image_source()
        field = self.page.get_by_label(label).and_(self.page.locator("input[type=number]")).first
        field.fill(str(value))
        field.press("Tab")
        self.page.wait_for_function(
            "before => document.querySelector(\"img[src*='/file=']\").getAttribute('src') !== before",
            arg=before,
            timeout=_SECONDS * 1000,
        )
        return self.image_source()

    def pixels(self) -> bytes:
        """The bytes of the shown image's file."""
        return self.page.request.get(self.page.locator("img[src*='/file=']").first.evaluate("i => i.src")).body()

    def _note(self, url: str, host: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != host:
            self.foreign.append(url)


@contextmanager
def visit(address: str) -> Iterator[Visit]:
    """Opens an address in the Chromium of this machine."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield Visit(browser.new_page(viewport={"width": 1100, "height": 780}), address)
        finally:
            browser.close()


def draw(address: str, path: Path) -> None:
    """A picture of the page with two sliders moved."""
    with visit(address) as found:
        found.set_number("Component 0 of w", 1.5)
        found.set_number("Truncation", 0.7)
        found.page.screenshot(path=path)
