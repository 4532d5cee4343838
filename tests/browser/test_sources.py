"""What the canvas begins from: a camera and a screen as moving pictures (Chromium's own stand-ins for them), and the clipboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.browser.stage import CHROMIUM, FLAGS, Studio, nearest, until

from fewstep.data.emoji import COLOURS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
STAND_INS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--auto-select-desktop-capture-source=Entire screen"]
PROMPT = "a pizza on a white background"
COPY = """async (data) => {
    const blob = new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type: "image/png" });
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""
BOARD = "() => [...document.querySelectorAll('#board canvas')].map((one) => one.toDataURL()).join().length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium with a camera and a screen that are none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright here: python -m pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *STAND_INS])
        yield chromium
        chromium.close()


def result(studio: Studio) -> int:
    """The generation of what the canvas became."""
    return int(studio.run("() => Number(document.getElementById('result').dataset.generation ?? 0)"))


def at_the_canvas(studio: Studio) -> Studio:
    studio.open("canvas")
    studio.page.locator("#canvas-prompt").fill(PROMPT)
    until(lambda: result(studio) > 0)
    return studio


@pytest.mark.parametrize("kind", ["Camera", "Screen"])
def test_a_moving_picture_is_followed_until_it_is_stopped(studio: Studio, kind: str) -> None:
    at_the_canvas(studio)
    source = studio.page.get_by_role("button", name=kind)
    source.click()
    until(lambda: source.get_attribute("aria-pressed") == "true")
    seen, boards = set[int](), set[int]()
    until(lambda: seen.add(result(studio)) or boards.add(studio.run(BOARD)) or len(seen) >= 4)
    if kind == "Camera":
        assert len(boards) > 1, "the camera's picture moves, and the canvas with it"
    source.click()
    until(lambda: source.get_attribute("aria-pressed") == "false")
    until(lambda: unchanged(studio))


def unchanged(studio: Studio) -> bool:
    """Whether nothing new comes for a second."""
    before = result(studio)
    studio.page.wait_for_timeout(1000)
    return result(studio) == before


OPENED = """
    const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        await window.permission;
        return (window.stream = await real(wanted));
    };
"""


@pytest.mark.parametrize("asking", [False, True], ids=["looking", "still-asking"])
def test_a_camera_is_let_go_when_the_room_is_left(studio: Studio, asking: bool) -> None:
    studio.page.add_init_script(OPENED)
    if asking:  # as while the browser asks its person, who leaves before answering
        studio.page.add_init_script("window.permission = new Promise((resolve) => (window.allow = resolve));")
    source = at_the_canvas(studio).page.get_by_role("button", name="Camera")
    source.click()
    if not asking:
        until(lambda: source.get_attribute("aria-pressed") == "true")
    studio.page.get_by_role("link", name="Create").click()
    if asking:
        studio.run("() => window.allow()")
    until(lambda: studio.run("() => window.stream?.getTracks().every((track) => track.readyState === 'ended')"))


def test_a_camera_that_may_not_look_is_said_in_words(studio: Studio) -> None:
    refusal = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); }"
    studio.page.add_init_script(refusal)
    source = at_the_canvas(studio).page.get_by_role("button", name="Camera")
    source.click()
    studio.page.get_by_text("The browser was not allowed to look.").wait_for()
    assert source.get_attribute("aria-pressed") == "false"


def test_a_picture_is_pasted_from_the_clipboard(studio: Studio) -> None:
    studio.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    at_the_canvas(studio)
    stream = io.BytesIO()
    Image.new("RGB", (300, 300), COLOURS["purple"]).save(stream, "PNG")
    studio.run(COPY, base64.b64encode(stream.getvalue()).decode())
    before = result(studio)
    studio.page.keyboard.press("Control+v")
    until(lambda: nearest(painted(studio), COLOURS) == "purple")
    until(lambda: result(studio) > before)


def painted(studio: Studio) -> list[int]:
    """The colour in the middle of the canvas."""
    code = """() => {
        const canvas = document.querySelector("#board canvas");
        return [...canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3);
    }"""
    return list(studio.run(code))
