"""The studio by keyboard alone, and texts that stand out from what is behind them, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.browser.stage import Studio, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
ROOMS = ("create", "canvas", "assets", "batch")
LEAST = 4.5  # of WCAG 2.2, 1.4.3, for text of usual size; 3 for large
FAINT = """() => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const paint = (...colours) => {
        context.clearRect(0, 0, 1, 1);
        for (const colour of colours) {
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
        }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (pixel) => {
        const [red, green, blue] = pixel.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (one) => {
        const colours = [];
        for (let at = one; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
        return colours;
    };
    const faint = [];
    const look = (one, colour, text) => {
        const ground = behind(one);
        const [above, below] = [light(paint(...ground, colour)), light(paint(...ground))].sort((a, b) => b - a);
        const { fontSize, fontWeight } = getComputedStyle(one);
        const large = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.66 && Number(fontWeight) >= 700);
        const ratio = (above + 0.05) / (below + 0.05);
        if (ratio < (large ? 3 : LEAST)) faint.push(`${text.slice(0, 30)} (${one.className || one.tagName}): ${ratio.toFixed(2)}`);
    };
    for (const one of document.querySelectorAll("body *")) {
        if (!one.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || one.closest(":disabled, [aria-disabled=true]")) continue;
        const text = [...one.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data.trim()).join("");
        if (text) look(one, getComputedStyle(one).color, text);
        if (one.placeholder && !one.value) look(one, getComputedStyle(one, "::placeholder").color, one.placeholder);
    }
    return faint;
}""".replace("LEAST", str(LEAST))
FOCUSED = """() => {
    const one = document.activeElement;
    if (one === document.body) return null;
    const shown = (style) => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    const around = [one, one.parentElement, one.parentElement?.parentElement, one.nextElementSibling].filter(Boolean);
    const seen = around.some((box) => shown(getComputedStyle(box))) || one.matches("textarea, input[type=text], input:not([type]), input[type=range]");
    one.dataset.walked ??= String(document.querySelectorAll("[data-walked]").length);
    return { name: one.getAttribute("aria-label") || one.textContent.trim() || one.title || one.id, seen, order: Number(one.dataset.walked) };
}"""
UNREACHED = """() => [...document.querySelectorAll("a[href], button, input, select, textarea")]
    .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled && one.tabIndex >= 0 && !one.dataset.walked)
    .filter((one) => !(one.type === "radio" && [...document.getElementsByName(one.name)].some((other) => other.dataset.walked)))
    .map((one) => one.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out(studio: Studio, theme: str) -> None:
    studio.page.emulate_media(color_scheme=theme)
    for room in ROOMS:
        studio.open(room)
        studio.page.locator(f"#room-{room} button").first.wait_for(state="attached")
        studio.page.wait_for_timeout(300)
        assert studio.run(FAINT) == [], room
    studio.open()
    for key in "bnvc":
        studio.keys(key)
        assert studio.run(FAINT) == [], key
    studio.keys("?")
    assert studio.run(FAINT) == []


@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone_tools_and_colours_stand_in_one_line(studio: Studio, width: int) -> None:
    studio.page.set_viewport_size({"width": width, "height": 800})
    for room, row in (("create", ".tools"), ("canvas", "#swatches")):
        studio.open(room)
        studio.page.locator(f"{row} button").first.wait_for()
        boxes = studio.page.locator(f"{row} > :is(button, input)").evaluate_all("all => all.map((one) => one.getBoundingClientRect().toJSON())")
        middles = {round(box["top"] + box["height"] / 2) for box in boxes}
        assert max(middles) - min(middles) <= 1 and max(box["right"] for box in boxes) <= width, room


@pytest.mark.parametrize("room", ROOMS)
def test_tab_reaches_everything_and_shows_where_it_is(studio: Studio, room: str) -> None:
    studio.open(room)
    studio.page.locator(f"#room-{room} button").first.wait_for(state="attached")
    studio.run("() => { document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus(); }")
    walked: list[Any] = []
    for _ in range(120):
        studio.page.keyboard.press("Tab")
        here = studio.run(FOCUSED)
        if here is None or (walked and here["order"] == 0):
            break
        walked.append(here)
    else:
        raise AssertionError("it goes round in a part of the page")
    assert [one["name"] for one in walked if not one["seen"]] == []
    assert [one["order"] for one in walked] == sorted(one["order"] for one in walked)
    assert studio.run(UNREACHED) == []


def test_nothing_moves_for_who_asked_for_less_motion(studio: Studio) -> None:
    moving = "() => document.getAnimations().map(({ effect }) => effect.getComputedTiming().endTime).filter((milliseconds) => milliseconds > 1)"
    studio.open()
    for key in "dvw":
        studio.keys(key)
        assert studio.run(moving) == [], key
    studio.keys("w")
    studio.page.emulate_media(reduced_motion="no-preference")
    studio.keys("v")
    assert studio.run(moving), "what moves for others"


def test_a_picture_is_made_found_again_and_kept_without_a_mouse(studio: Studio) -> None:
    studio.open()
    press = studio.page.keyboard.press
    studio.run("() => document.activeElement.blur()")
    press("/")
    press("Control+a")
    studio.page.keyboard.type("a fox on a green background")
    press("Escape")
    studio.finished("a fox on a green background")
    press("2")
    studio.finished("a fox on a green background", steps=2)
    strip = studio.page.locator("#strip button")
    until(lambda: strip.count() == 1)
    press("8")
    studio.finished("a fox on a green background", steps=8)
    until(lambda: strip.count() == 2)
    press("ArrowRight")
    studio.finished("a fox on a green background", steps=2)
    press("v")
    variations = studio.page.locator("#variations button:not(.empty)")
    until(lambda: variations.count() == 9)
    variations.nth(4).focus()
    press("ArrowRight")
    assert studio.page.locator("#variations button").nth(5).evaluate("one => one === document.activeElement")
    press("Enter")
    until(lambda: '"variations":[[' in studio.run("() => localStorage.getItem('fewstep.settings')"))
    press("Escape")
    press("?")
    assert studio.page.locator("#keys").evaluate("one => one.open")
    press("Escape")
    assert not studio.page.locator("#keys").evaluate("one => one.open")
    with studio.page.expect_download() as download:
        studio.keys("s")
    assert download.value.suggested_filename.endswith(".png")
