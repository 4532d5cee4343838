"""A browser for the tests of the studio, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser.stage import CHROMIUM, FLAGS, Studio, free_port, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Closed after each module, for while it is there nobody else in this thread can run an event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright here: python -m pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def elsewhere() -> int:
    """The port of a page that is not the server's own, and may use it."""
    return free_port()


@pytest.fixture(scope="package")
def url(elsewhere: int) -> Iterator[str]:
    """A server with the embedded model."""
    with serving("--allow-origin", f"http://localhost:{elsewhere}") as address:
        yield address


@pytest.fixture
def studio(browser: Any, url: str) -> Iterator[Studio]:
    """The studio in a fresh profile, and nothing in it that the browser complained of."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce", accept_downloads=True)
    seen = Studio(context.new_page(), url)
    yield seen
    context.close()
    assert not seen.complaints
