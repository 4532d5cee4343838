"""The pictures of the studio in README and docs, made by using it: FEWSTEP_RECORD=docs/images python -m pytest tests/browser/test_recording.py"""

from __future__ import annotations

import base64
import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.browser.stage import Studio, until

FOLDER = os.environ.get("FEWSTEP_RECORD", "")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FOLDER, reason="pictures for the README are made on request: set FEWSTEP_RECORD to a folder"),
]
LARGEST, LARGEST_STILL = 1_500_000, 300_000  # bytes
PROMPTS = ["a cactus in the desert", "a cupcake on a pink background", "a rocket in space", "a ghost in a forest", "an owl under the night sky",
           "a penguin in the snow", "a red apple on a blue background", "a fox in the snow"]  # fmt: skip
WIDE, PHONE = (1280, 800), (390, 844)


def still(page: Any, name: str, scale: float = 1) -> None:
    """What the page looks like now, as a file."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    path = Path(FOLDER) / f"{name}.webp"
    picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS).save(path, quality=84, method=6)
    assert path.stat().st_size < LARGEST_STILL


def opened(browser: Any, url: str, size: tuple[int, int], scheme: str, **options: Any) -> Studio:
    phone = size == PHONE
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, device_scale_factor=2 if phone else 1, has_touch=phone, is_mobile=phone, **options
    )
    return Studio(context.new_page(), url).open()


def with_history(studio: Studio, prompts: list[str] = PROMPTS) -> None:
    """Make some pictures, each of which is kept."""
    for count, prompt in enumerate(prompts, 1):
        studio.write(prompt)
        until(lambda count=count: studio.page.locator("#strip button").count() == count)  # type: ignore[misc]
    for steps in ("1", "2", "8", "4"):
        studio.keys(steps)
        studio.finished(prompts[-1], steps=steps)
    until(lambda: studio.page.locator("#strip [aria-current]").count() == 1)
    studio.page.wait_for_timeout(600)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_stills(browser: Any, url: str, scheme: str) -> None:
    studio = opened(browser, url, WIDE, scheme, reduced_motion="reduce")
    with_history(studio)
    still(studio.page, f"studio-{scheme}")
    if scheme == "light":
        studio.keys("c")
        until(lambda: "as fast" in studio.page.locator(".ratio").inner_text())
        studio.page.wait_for_timeout(4000)
        still(studio.page, "studio-compare")
    else:
        studio.keys("v")
        studio.page.locator("#spread").fill("0.6")
        studio.page.wait_for_timeout(500)
        until(lambda: studio.page.locator("#variations .empty").count() == 0)
        still(studio.page, "studio-variations")
    studio.page.context.close()
    studio = opened(browser, url, PHONE, scheme, reduced_motion="reduce")
    with_history(studio, PROMPTS[-3:])
    still(studio.page, f"studio-phone-{scheme}", 0.75)
    studio.page.context.close()


def test_still_of_the_canvas(browser: Any, url: str) -> None:
    studio = opened(browser, url, WIDE, "light", reduced_motion="reduce")
    studio.write("a red apple on a blue background")
    page = studio.page
    page.get_by_role("link", name="Canvas").click()
    page.get_by_label("yellow", exact=True).dblclick()
    page.get_by_label("red", exact=True).click()
    page.locator(".brush-size").fill("96")
    box = page.locator("#board").bounding_box()
    at = lambda x, y: (box["x"] + box["width"] * x, box["y"] + box["height"] * y)  # noqa: E731
    page.mouse.move(*at(0.4, 0.5))
    page.mouse.down()
    for x, y in ((0.35, 0.6), (0.5, 0.68), (0.65, 0.6), (0.6, 0.48), (0.5, 0.55), (0.42, 0.5)):
        page.mouse.move(*at(x, y), steps=6)
    page.mouse.up()
    page.get_by_label("green", exact=True).click()
    page.locator(".brush-size").fill("22")
    page.mouse.move(*at(0.5, 0.36))
    page.mouse.down()
    page.mouse.move(*at(0.6, 0.22), steps=6)
    page.mouse.up()
    page.locator("#canvas-prompt").fill("a red apple on a yellow background")
    page.locator(".strength").fill("0.7")
    page.wait_for_timeout(500)
    until(lambda: page.locator("#result").get_attribute("data-final") == "true" and "yellow" in page.locator("#result").get_attribute("data-prompt"))
    page.wait_for_timeout(500)
    still(page, "studio-canvas")
    page.context.close()


class Reel:
    """What the browser painted, and when: a recording in real time."""

    def __init__(self, page: Any) -> None:
        self.page, self.frames, self.session = page, [], page.context.new_cdp_session(page)
        self.session.on("Page.screencastFrame", self._painted)

    def _painted(self, frame: dict[str, Any]) -> None:
        self.frames.append((frame["metadata"]["timestamp"], frame["data"]))
        self.session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})

    def __enter__(self) -> Reel:
        self.session.send("Page.startScreencast", {"format": "jpeg", "quality": 92, "maxWidth": WIDE[0], "maxHeight": WIDE[1]})
        return self

    def __exit__(self, *_: object) -> None:
        self.session.send("Page.stopScreencast")

    def write(self, path: Path, size: tuple[int, int], between: float = 0.09) -> None:
        """An animation of the frames that are at least so many seconds apart; each stays for as long as it was there."""
        kept: list[tuple[float, str]] = []
        for when, data in self.frames:
            if kept and when - kept[-1][0] < between:
                kept[-1] = (kept[-1][0], data)
            else:
                kept.append((when, data))
        pictures = [Image.open(io.BytesIO(base64.b64decode(data))).resize(size, Image.Resampling.LANCZOS) for _, data in kept]
        durations = [round(1000 * (b - a)) for (a, _), (b, _) in pairwise(kept)] + [2500]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=62, method=4)


def test_recording(browser: Any, url: str) -> None:
    studio = opened(browser, url, WIDE, "light")
    with_history(studio, PROMPTS[3:6])
    page = studio.page
    page.locator("#prompt").select_text()
    with Reel(page) as reel:
        page.wait_for_timeout(600)
        page.keyboard.type("a red apple on a blue background", delay=120)
        studio.finished("a red apple on a blue background")
        page.wait_for_timeout(800)
        page.get_by_role("option", name="yellow").click()
        page.mouse.move(640, 790)
        studio.finished("a red apple on a yellow background")
        page.wait_for_timeout(500)
        for steps in ("1", "2", "4", "8", "4"):
            studio.keys(steps)
            until(lambda steps=steps: studio.shown()["steps"] == steps)  # type: ignore[misc]
            page.wait_for_timeout(500)
        studio.keys("v")
        until(lambda: page.locator("#variations .empty").count() == 0)
        page.wait_for_timeout(1200)
        studio.keys("c")
        until(lambda: "as fast" in page.locator(".ratio").inner_text())
        page.wait_for_timeout(1500)
    path = Path(FOLDER) / "studio.webp"
    reel.write(path, (960, 600))
    assert path.stat().st_size < LARGEST
    page.context.close()
