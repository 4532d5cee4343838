"""The film in a run's report: a slider of training time, by mouse and by key, in a page from the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.distill.watch.film import film, frame_path, write_frame, write_index
from fewstep.evals.page import document

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    write_index(tmp_path, ["a fox", "an owl"], 32)
    lines = ""
    for name in ("teacher", "start-2", "start-1"):
        write_frame(np.zeros((2, 32, 32, 3), np.uint8), frame_path(tmp_path, name))
    for seconds, (phase, update) in enumerate([("4to2/warm", 4), ("4to2/full", 2), ("2to1/warm", 4)], start=60):
        write_frame(np.full((2, 32, 32, 3), seconds, np.uint8), frame_path(tmp_path, phase, update))
        lines += f'{{"phase": "{phase}", "update": {update}, "seconds": {seconds}}}\n'
    (tmp_path / "health.jsonl").write_text(lines)
    (tmp_path / "report.html").write_text(document("a run", "A run", {}, film(tmp_path)))
    context = browser.new_context(viewport={"width": 390, "height": 800})
    opened, complaints = context.new_page(), list[str]()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    opened.goto((tmp_path / "report.html").as_uri())
    yield opened
    context.close()
    assert not complaints


def grey(page: Any, steps: int) -> int:
    """What the column shows in its middle."""
    found: int = page.evaluate(
        """async (id) => {
            const image = document.querySelector(id + " img");
            await image.decode();
            const canvas = new OffscreenCanvas(1, 1), pen = canvas.getContext("2d");
            pen.drawImage(image, 0, 0, 1, 1);
            return pen.getImageData(0, 0, 1, 1).data[0];
        }""",
        f"#film-{steps}",
    )
    return found


def test_the_slider_goes_through_the_run(page: Any) -> None:
    slider, said = page.get_by_role("slider", name="training time"), page.locator("#film-said")
    assert said.inner_text() == "62 s: 2 to 1 steps, warm, update 4"
    assert abs(grey(page, 1) - 62) <= 3
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert said.inner_text() == "61 s: 4 to 2 steps, full, update 2"
    assert slider.evaluate("(it) => it.ariaValueText") == said.inner_text()
    assert (abs(grey(page, 2) - 61) <= 3, grey(page, 1) <= 3) == (True, True)
    assert page.locator(".film .now figcaption").inner_text() == "2 steps"
    page.keyboard.press("Home")
    assert said.inner_text() == "before training"
    assert (grey(page, 2) <= 3, page.locator(".film .now").count()) == (True, 0)
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Play").wait_for(timeout=20_000)  # it is "Pause" until the end
    assert slider.input_value() == slider.get_attribute("max") == "3"
