"""Uses the page of ``fastgan explore`` in a headless browser, and takes a picture of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_IMAGE = "#image img"
_MILLISECONDS = 60_000  # limit for an answer of the page; long, for a busy machine


class Visit:
    """A page that is open in a browser. Every action waits until another image is shown.

    Attributes:
        page: playwright's page.
        foreign: addresses on other hosts that the page requested.
        errors: errors of the page's scripts.
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.foreign: list[str] = []
        self.errors: list[str] = []
        host = urlsplit(address).netloc
        page.on("request", lambda request: self._note(request.url, host))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.locator(_IMAGE).first.wait_for(timeout=_MILLISECONDS)

    def set_number(self, label: str, value: float) -> None:
        """Types a value into the number field with that label."""
        field = self.page.locator(f"input[type=number][aria-label*='{label}'], label:has-text('{label}') input").first
        self._act(lambda: (field.fill(str(value)), field.press("Tab")))

    def move_slider(self, label: str) -> None:
        """Moves a slider by keys, five steps to the left."""
        slider = self.page.locator(f"input[type=range][aria-label*='{label}']").first
        self._act(lambda: (slider.focus(), *(slider.press("ArrowLeft") for _ in range(5))))

    def uncheck(self, label: str) -> None:
        """Unchecks a box."""
        self._act(lambda: self.page.get_by_label(label).first.uncheck())

    def choose(self, label: str, option: str) -> None:
        """Chooses from a list."""
        self.page.get_by_label(label).first.click()
        self._act(lambda: self.page.get_by_role("option", name=option, exact=True).click())

    def click(self, button: str) -> None:
        """Clicks a button, or an image of the grid of seeds."""
        self._act(lambda: self.page.get_by_role("button", name=button, exact=True).click())

    def pixels(self) -> bytes:
        """The file of the shown image, once it has not changed for a second."""
        source = None
        while source != (source := self._source()):
            self.page.wait_for_timeout(1000)
        return self.page.request.get(source).body()

    def _act(self, action: Callable[[], Any]) -> None:
        before = self._source()
        action()
        changed = f'before => document.querySelector("{_IMAGE}").src !== before'
        self.page.wait_for_function(changed, arg=before, timeout=_MILLISECONDS)

    def _source(self) -> str:
        return self.page.locator(_IMAGE).first.evaluate("image => image.src")

    def _note(self, url: str, host: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != host:
            self.foreign.append(url)


def find_browser() -> str | None:
    """The path of Chromium on this machine, or ``None``."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


@contextmanager
def visit(address: str, width: int = 1100, height: int = 780) -> Iterator[Visit]:
    """Opens an address in Chromium, in a window of ``width`` by ``height`` pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, as in a container.
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        try:
            yield Visit(browser.new_page(viewport={"width": width, "height": height}), address)
        finally:
            browser.close()


def draw(out: Path, docs: Path) -> None:
    """A picture of the page of the run runs/stylegan, after some use of it."""
    import torch

    from fastgan.explorer import Explorer, build_page, serve
    from fastgan.training.checkpoint import load_trained_generator

    run = Path("runs/stylegan")
    generator, step = load_trained_generator(run, torch.device("cpu"))
    page = build_page(Explorer(generator), f"{run.name}, step {step}", str(run))
    try:
        with visit(serve(page, "127.0.0.1", 7890), 1100, 1120) as found:
            found.set_number("Seed", 2)
            found.set_number("Component 0 of w", 1.5)
            found.choose("Take from B", "coarse: 4, 8")
            found.pixels()
            found.page.screenshot(path=docs / "explorer.png")
    finally:
        page.close()
