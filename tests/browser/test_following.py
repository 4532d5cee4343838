"""A person draws lines, and the picture's composition follows them, where the server has a ControlNet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageChops, ImageStat
from tests import nets
from tests.browser.stage import Studio, serving, until

from fewstep.models.bundle import load_bundle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
PROMPT = "a red apple on a blue background"


@pytest.fixture(scope="module")
def guided(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that was started with a ControlNet."""
    net = tmp_path_factory.mktemp("net") / "lines"
    nets.build(load_bundle(tiny), 1, size=0.2).save_pretrained(net)
    with serving("--model", str(tiny), "--controlnet", str(net)) as address:
        yield address


def image_of(studio: Studio, canvas: str) -> tuple[Image.Image, str]:
    """(what is on it, the same as a data URL)."""
    data = studio.page.locator(canvas).evaluate("canvas => canvas.toDataURL('image/png')")
    return Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB"), data


def apart(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


def test_a_drawing_is_followed_as_closely_as_was_said(browser: Any, guided: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    studio = Studio(context.new_page(), guided).open("canvas")
    studio.page.locator("#canvas-prompt").fill(PROMPT)
    studio.page.get_by_label("white", exact=True).click()
    studio.page.get_by_label("Fill with this colour").click()
    studio.page.get_by_text("Scribble", exact=True).click()
    assert not studio.page.get_by_text("Repaint", exact=True).is_visible() and not studio.page.get_by_text("How much changes").is_visible()
    studio.page.get_by_role("radiogroup", name="Steps").get_by_text("1", exact=True).click()
    studio.page.get_by_label("black", exact=True).click()
    box = studio.page.locator("#board").bounding_box()
    assert box is not None
    studio.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.3)
    studio.page.mouse.down()
    studio.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.7, steps=8)
    studio.page.mouse.up()
    seed = studio.run("() => JSON.parse(localStorage.getItem('fewstep.settings')).seed")
    drawn, data = image_of(studio, "#board .paint")
    assert all(darkest < 24 and lightest == 255 for darkest, lightest in drawn.getextrema()), "black ink on white paper"

    def made(weight: float) -> Image.Image:
        control = [{"image": data, "hint": "scribble", "weight": weight}]
        wanted = {"prompt": PROMPT, "seed": seed, "steps": 1, "width": drawn.width, "height": drawn.height, "control": control}
        return Image.open(io.BytesIO(httpx2.post(f"{guided}/v1/generate", json=wanted, timeout=60).raise_for_status().content)).convert("RGB")

    whole, half, none = made(1), made(0.5), made(0)
    near = min(apart(whole, half), apart(half, none)) / 2  # the studio is sent JPEG
    until(lambda: apart(image_of(studio, "#result")[0], whole) < near)
    studio.page.get_by_label("How closely it is followed").fill("0.5")
    until(lambda: apart(image_of(studio, "#result")[0], half) < near)
    assert studio.page.locator("#result").get_attribute("data-control") == "scribble"
    studio.page.mouse.move(0, 0)
    studio.page.set_viewport_size({"width": 320, "height": 568})
    assert studio.run("() => document.documentElement.scrollWidth") <= 320
    studio.page.set_viewport_size({"width": 1280, "height": 800})

    studio.page.get_by_text("Picture", exact=True).click()
    assert studio.page.get_by_text("How much changes").is_visible()
    until(lambda: studio.page.locator("#result").get_attribute("data-control") == "")
    assert not studio.complaints
    context.close()


def test_nothing_is_offered_without_a_controlnet(studio: Studio) -> None:
    studio.open("canvas")
    assert studio.page.get_by_text("How much changes").is_visible()
    assert studio.page.get_by_role("radiogroup", name="The canvas is").count() == 0
    assert httpx2.get(f"{studio.url}/v1/models").json()["data"][0]["control"] == []
