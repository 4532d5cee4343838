"""A person in the studio: types, turns the dial, keeps a seed, paints, drops a picture, comes back."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat
from tests.browser.stage import Studio, drop, free_port, generated, nearest, serving, until

from fewstep.data.emoji import COLOURS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
APPLE, OWL = "a red apple on a blue background", "an owl on a yellow background"
EXAMPLE = Path(__file__).parents[2] / "examples" / "web"
WATCH = """() => {
    window.generations = [];
    const picture = document.getElementById("picture");
    new MutationObserver(() => window.generations.push(Number(picture.dataset.generation))).observe(picture, { attributeFilter: ["data-generation"] });
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def canvas_of(studio: Studio, which: str = "#picture") -> Image.Image:
    """The whole picture that is shown, or another canvas."""
    data = studio.run("(which) => document.querySelector(which).toDataURL()", which)
    return Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")


def background(studio: Studio, canvas: str = "picture") -> str:
    return nearest(studio.pixels(canvas, 0.04, 0.04), COLOURS)


def test_the_first_sight_is_a_picture_and_typing_repaints_it(studio: Studio) -> None:
    studio.open()
    first = studio.finished("a fox on a purple background")
    assert background(studio) == "purple"
    studio.run(WATCH)
    studio.page.keyboard.type(APPLE, delay=30)  # the example is selected: typing replaces it
    apple = studio.finished(APPLE)
    assert background(studio) == "blue"
    made = [Image.open(io.BytesIO(generated(studio.url, prompt=prompt, seed=int(apple["seed"]), steps=4))) for prompt in (APPLE, "a fox on a blue background")]
    right, other = (ImageStat.Stat(ImageChops.difference(canvas_of(studio), one.convert("RGB"))).mean for one in made)
    assert max(right) < 4 < max(other), "what is shown is that prompt's own picture, but for what JPEG changes"
    assert max(studio.pixels("picture", 0.5, 0.6)) == studio.pixels("picture", 0.5, 0.6)[0], "the middle is red"
    studio.page.locator("#prompt").select_text()
    studio.page.keyboard.type(OWL, delay=30)
    studio.finished(OWL)
    assert background(studio) == "yellow"
    generations = studio.run("() => window.generations")
    assert generations == sorted(generations), "no older picture after a newer one"
    assert int(studio.shown()["generation"]) > int(apple["generation"]) > int(first["generation"])
    assert studio.page.locator("#picture").get_attribute("aria-label") == f"{OWL}, 4 steps"


def test_the_dial_says_what_each_step_count_takes(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    box = studio.page.locator(".dial-track").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    studio.page.mouse.move(box["x"] + 10, y)
    studio.page.mouse.down()
    for at, steps in enumerate((1, 2, 4, 8)):
        studio.page.mouse.move(box["x"] + box["width"] * (at + 0.5) / 4, y, steps=3)
        studio.finished(APPLE, steps=steps)
    studio.page.mouse.up()
    times = studio.page.locator(".stop span").all_inner_texts()
    assert all(time.endswith((" ms", " s")) for time in times), times
    studio.page.keyboard.press("ArrowLeft")  # the dial has the focus
    studio.finished(APPLE, steps=4)
    studio.keys("2")
    assert studio.finished(APPLE, steps=2)
    assert studio.page.get_by_label("Steps", exact=True).get_attribute("aria-valuetext").startswith("2 steps, ")


def test_every_step_count_has_a_time_before_it_was_used(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    times = studio.page.locator(".stop span")
    until(lambda: all(time.endswith((" ms", " s")) for time in times.all_inner_texts()))
    assert studio.shown()["steps"] == "4", "they were tried unseen"


def test_a_locked_seed_stays(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.page.locator("#seed").fill("")
    studio.page.keyboard.type("4321")
    studio.page.keyboard.press("Enter")
    seed = studio.finished(APPLE, seed=4321)["seed"]
    studio.page.get_by_label("Lock the seed").click()
    studio.page.locator("#prompt").focus()
    studio.page.keyboard.press("Enter")
    studio.write(OWL)
    assert studio.shown()["seed"] == seed
    assert studio.page.get_by_label("Another seed").is_disabled()
    studio.keys("l", "d")
    until(lambda: studio.shown()["seed"] != seed)


def test_a_dropped_picture_restores_its_settings_and_a_download_says_how_it_was_made(studio: Studio) -> None:
    studio.open()
    studio.write(OWL)
    given = generated(studio.url, prompt="a rocket on a black background", seed=123456, steps=2, aspect="3:4", variation_seed=5, variation=0.25)
    drop(studio, given)
    studio.finished("a rocket on a black background", steps=2, seed=123456)
    assert background(studio) == "black"
    assert studio.page.get_by_label("Portrait, 3:4").is_checked()
    with studio.page.expect_download() as download:
        studio.keys("s")
    kept = Image.open(download.value.path())
    assert kept.size == Image.open(io.BytesIO(given)).size
    record = json.loads(kept.info["fewstep"])
    assert {name: record[name] for name in ("prompt", "seed", "steps", "variation")} == {
        "prompt": "a rocket on a black background",
        "seed": 123456,
        "steps": 2,
        "variation": 0.25,
    }
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    drop(studio, stream.getvalue())
    studio.page.get_by_text("This picture does not say how it was made.").wait_for()
    drop(studio, b"subject;colour", "list.csv", "text/csv")
    studio.page.get_by_text("list.csv is no picture. Lists and tables go to Batch.").wait_for()


def test_a_picture_of_the_teachers_is_restored_as_near_as_the_students_come(studio: Studio) -> None:
    studio.open()
    studio.write(OWL)
    drop(studio, generated(studio.url, prompt=APPLE, seed=11, steps=20))
    studio.page.get_by_text("all but its 20 steps, which are 8 here").wait_for()
    studio.finished(APPLE, steps=8, seed=11)
    assert studio.page.locator("#steps").get_attribute("aria-valuetext").startswith("8 steps")
    until(lambda: studio.page.locator("#strip button").first.get_attribute("aria-label") == f"{APPLE}, 8 steps")


def test_what_should_not_be_there_is_said_kept_and_sent(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.keys("n")
    avoid = studio.page.get_by_label("What should not be there")
    assert avoid.evaluate("one => one === document.activeElement")
    studio.page.keyboard.type("a blue background")
    with studio.page.expect_download() as download:
        avoid.press("Enter")
        studio.keys("s")
    record = json.loads(Image.open(download.value.path()).info["fewstep"])
    assert (record["prompt"], record["negative"]) == (APPLE, "a blue background")
    studio.keys("n")
    assert avoid.is_hidden()
    with studio.page.expect_download() as download:
        studio.keys("s")
    plain = json.loads(Image.open(download.value.path()).info["fewstep"])
    assert plain.get("negative") is None
    drop(studio, generated(studio.url, prompt=OWL, seed=3, steps=2, negative="a tree"))
    studio.finished(OWL, steps=2, seed=3)
    assert (avoid.is_visible(), avoid.input_value()) == (True, "a tree")


def test_the_history_is_there_after_a_reload_and_restores_everything(studio: Studio) -> None:
    studio.open()
    strip = studio.page.locator("#strip button")
    studio.write(APPLE)
    seed = studio.shown()["seed"]
    studio.keys("2")
    studio.finished(APPLE, steps=2)
    until(lambda: strip.count() == 1)
    studio.keys("1")
    studio.finished(APPLE, steps=1)
    until(lambda: strip.count() == 2)
    assert [entry.get_attribute("aria-label") for entry in strip.all()] == [f"{APPLE}, 1 step", f"{APPLE}, 2 steps"]
    studio.write(OWL)
    studio.keys("8", "d")
    until(lambda: strip.count() == 3)
    studio.page.reload()
    studio.page.locator("html[data-ready]").wait_for()
    studio.finished(OWL, steps=8)
    assert strip.count() == 3
    strip.nth(2).click()
    studio.finished(APPLE, steps=2, seed=seed)
    assert studio.page.locator("#prompt").input_value() == APPLE
    assert background(studio) == "blue"


def test_blend_variations_walk_and_compare(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.keys("v")
    cells = studio.page.locator("#variations button")
    until(lambda: studio.page.locator("#variations .empty").count() == 0)
    cells.nth(0).click()
    until(lambda: [share for _, share in studio.run(VARIED)] == [0.3])
    studio.keys("v", "w")
    walked = set()
    until(lambda: walked.add(studio.run(WALKED)) or len(walked) > 3)
    studio.keys("w", "b")
    studio.page.keyboard.type("a green apple on a pink background")
    studio.page.locator("#blend-weight").fill("1")
    until(lambda: background(studio) == "pink")
    studio.keys("b", "c")
    until(lambda: "as fast" in studio.page.locator(".ratio").inner_text())
    assert [studio.page.locator(".side canvas").nth(i).get_attribute("data-steps") for i in (0, 1)] == ["1", "32"]
    assert "The left one is" in studio.page.locator(".ratio").inner_text()


def test_a_walk_that_is_stopped_and_begun_again_is_one_walk(studio: Studio) -> None:
    sent: list[dict[str, Any]] = []
    studio.page.on("websocket", lambda socket: socket.on("framesent", lambda message: sent.append(json.loads(message))))
    studio.open()
    studio.keys("1")
    studio.write(APPLE)
    studio.run("() => (document.getElementById('pace').value = 1)")
    sent.clear()
    studio.run("() => { for (let presses = 0; presses < 3; presses += 1) document.querySelector('[data-tool=walk]').click(); }")

    def walked() -> list[int]:
        """Where to, message by message."""
        return [message["variation_seed"] for message in sent if "variation_seed" in message]

    until(lambda: studio.page.wait_for_timeout(50) or len(set(walked())) > 3)
    goals = [goal for goal, _ in groupby(walked())]
    assert len(goals) == len(set(goals)), "it comes back to none that it has left"


def apart(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures, of 255."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


def test_a_variation_is_told_and_put_away_by_one_click(studio: Studio) -> None:
    """What is left is the seed's own picture, to the pixel; a walk that is under way ends with it."""
    studio.open()
    studio.page.locator("#seed").fill("3")
    studio.write("a fox")
    studio.finished("a fox", seed=3)
    own, varied = canvas_of(studio), studio.page.get_by_role("button", name="varied")
    assert not varied.is_visible()
    studio.keys("w")
    varied.wait_for()
    until(lambda: studio.page.locator("#ring, [data-tool=walk][aria-pressed=true]").count() > 0)
    varied.click()
    until(lambda: not studio.run(VARIED) and studio.shown()["final"] == "true")
    assert not varied.is_visible()
    assert studio.page.locator("[data-tool=walk]").get_attribute("aria-pressed") == "false"
    studio.page.locator("#seed").fill("3")
    studio.finished("a fox", seed=3)
    assert apart(canvas_of(studio), own) == 0


def test_a_seed_with_more_digits_than_a_browser_counts_is_told(studio: Studio) -> None:
    studio.open()
    studio.page.locator("#seed").fill("9223372036854775807")
    studio.page.get_by_text("This seed has 19 digits, and a browser counts no more than 15").wait_for()
    assert studio.page.locator("#seed").input_value() == "922337203685477"


def test_variations_add_up_from_picture_to_picture(studio: Studio) -> None:
    """Two choices, each half of the way to another seed, and then neighbours that are a tenth of the way from there."""
    studio.page.add_init_script("let last = 7; Math.random = () => (last = (last * 48271) % 2147483647) / 2147483647;")
    studio.open()
    studio.page.locator("#seed").fill("3")
    studio.write("a fox")
    studio.finished("a fox", seed=3)
    first = canvas_of(studio)
    cells, waiting = (studio.page.locator(f"#variations {which}") for which in ("button", ".empty"))

    def spread(share: str) -> None:
        """Of the neighbours that are made from now on."""
        studio.run("(share) => (document.getElementById('spread').value = share)", share)

    def choose(place: int) -> Image.Image:
        """What is seen there when it is chosen. Waits for its own picture, and its neighbours."""
        seen, before = canvas_of(studio, f"#variations button:nth-child({place}) canvas"), int(studio.shown()["generation"])
        cells.nth(place - 1).click()
        until(lambda: int(studio.shown()["generation"]) > before and studio.shown()["final"] == "true" and waiting.count() == 0)
        return seen

    spread("0.5")
    studio.keys("v")
    until(lambda: waiting.count() == 0)
    choose(1)
    spread("0.1")
    chosen = choose(8)
    centre = canvas_of(studio, "#variations .middle canvas")
    assert 3 * apart(centre, chosen) < apart(centre, first), "the middle is the picture that was chosen"
    neighbours = [canvas_of(studio, f"#variations button:nth-child({place}) canvas") for place in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert all(2 * apart(one, centre) < apart(one, first) for one in neighbours)

    varied = studio.run(VARIED)
    assert [share for _, share in varied] == [0.5, 0.5]
    assert studio.page.get_by_role("button", name="varied").is_visible()
    with studio.page.expect_download() as download:
        studio.keys("s")
    content = Path(download.value.path()).read_bytes()
    record = json.loads(Image.open(io.BytesIO(content)).info["fewstep"])
    assert [[record["variation_seed"], record["variation"]], *record["variations"]] == varied
    kept = studio.page.locator("#strip button[aria-current]")
    until(lambda: kept.count() == 1)
    entry = kept.element_handle()
    cells.nth(4).click()
    assert studio.page.locator("[data-tool=variations]").get_attribute("aria-pressed") == "false"
    studio.keys("d")
    assert studio.run(VARIED) == [], "the dice begin anew"
    entry.click()
    assert studio.run(VARIED) == varied
    studio.keys("d")
    until(lambda: studio.shown()["seed"] != "3")  # or the picture before the dice would be taken for the dropped one
    drop(studio, content)
    studio.finished("a fox", seed=3)
    assert studio.run(VARIED) == varied
    assert apart(canvas_of(studio), centre) < 1, "it is the same picture again"


def test_choices_end_where_a_picture_holds_no_more(studio: Studio) -> None:
    full = "JSON.stringify({ prompt: 'a fox', variations: Array(33).fill([5, 0.1]) })"
    studio.page.add_init_script(f"localStorage.setItem('fewstep.settings', {full})")
    studio.open()
    studio.finished("a fox")
    studio.keys("v")
    studio.page.get_by_text("The choices are as many as one picture can hold.").wait_for()
    assert studio.page.locator("#variations").is_hidden()


def test_any_two_settings_are_compared(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.keys("c")
    sides = studio.page.locator(".side canvas")
    until(lambda: studio.page.locator(".ratio").inner_text())
    hold = studio.page.get_by_role("button", name="Keep the left as it is")
    hold.click()
    studio.page.locator("#prompt").fill(OWL)
    studio.page.get_by_label("Right", exact=True).select_option("2")
    until(lambda: sides.nth(1).get_attribute("data-prompt") == OWL and studio.page.locator(".ratio").inner_text())
    assert sides.nth(0).get_attribute("data-prompt") == APPLE
    assert "Same words" not in studio.page.locator(".ratio").inner_text()
    hold.click()
    until(lambda: sides.nth(0).get_attribute("data-prompt") == OWL)


def test_what_is_masked_is_repainted_and_the_rest_stays(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.page.get_by_role("link", name="Canvas").click()
    result = studio.page.locator("#result")
    until(lambda: result.get_attribute("data-final") == "true")
    studio.page.get_by_text("Repaint", exact=True).click()
    box = studio.page.locator("#board").bounding_box()
    assert box is not None
    studio.page.locator(".brush-size").fill("96")
    studio.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.1)
    studio.page.mouse.down()
    for y in (0.3, 0.1, 0.1):
        studio.page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * y, steps=4)
    studio.page.mouse.up()
    studio.page.locator(".strength").fill("1")
    studio.page.locator("#canvas-prompt").fill("a red apple on a yellow background")
    facts = {"prompt": "a red apple on a yellow background", "masked": "true", "final": "true"}
    until(lambda: facts.items() <= result.evaluate("canvas => ({...canvas.dataset})").items())
    for x, y in ((0.95, 0.95), (0.5, 0.6), (0.95, 0.05)):
        kept, was = studio.pixels("result", x, y), studio.run(BOARD, [x, y])
        assert max(abs(a - b) for a, b in zip(kept, was, strict=True)) < 24, "beside the mask only JPEG changes anything"
    assert nearest(studio.pixels("result", 0.04, 0.04), COLOURS) != "blue"
    studio.page.get_by_label("Widen the frame: right").click()
    until(lambda: result.evaluate("canvas => canvas.width") == 320)


def test_what_changes_of_a_canvas_is_what_its_student_can_begin_from(studio: Studio) -> None:
    """The 4-step student begins anywhere; the 8-step student at the levels of its own steps."""
    studio.open()
    studio.write(APPLE)
    studio.page.get_by_role("link", name="Canvas").click()
    made = studio.page.locator("#result-made")
    studio.page.locator(".strength").fill("0.35")
    until(lambda: "35 % anew" in made.inner_text())
    studio.page.locator("#canvas-dials").get_by_text("8", exact=True).click()
    studio.page.get_by_text("6/8", exact=True).click()
    until(lambda: "6 of 8 steps" in made.inner_text())


VARIED = "() => JSON.parse(localStorage.getItem('fewstep.settings')).variations"
WALKED = "() => document.getElementById('walkring').style.getPropertyValue('--done')"
BOARD = """([x, y]) => {
    const canvas = document.querySelector("#board .paint");
    return [...canvas.getContext("2d").getImageData(x * (canvas.width - 1), y * (canvas.height - 1), 1, 1).data].slice(0, 3);
}"""


def test_a_batch_comes_as_a_zip(studio: Studio) -> None:
    studio.open("batch")
    page = studio.page
    page.get_by_text("Table", exact=True).click()
    page.locator("#batch-text").fill('subject,colour\nfox,purple\n"red, red heart",white')
    page.get_by_text("Story", exact=True).click()
    page.get_by_role("button", name="Make 4 pictures").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        listed = json.loads(archive.read("batch.json"))
        assert [item["prompt"] for item in listed] == ["a fox on a purple background"] * 2 + ["a red, red heart on a white background"] * 2
        sizes = [Image.open(io.BytesIO(archive.read(item["file"]))).size for item in listed]
    assert sizes == [(256, 256), (192, 336)] * 2
    page.locator("#batch-template").fill("a {size} {subject}")
    assert "no column “size”" in page.locator("#batch-said").inner_text()


def test_a_list_is_opened_and_what_is_none_is_told(studio: Studio) -> None:
    studio.open("batch")
    drop(studio, b"subject;colour\nfox;purple\nowl;yellow\n", "list.csv", "text/csv")
    studio.page.get_by_role("button", name="Make 2 pictures").wait_for()
    png = {"name": "picture.png", "mimeType": "image/png", "buffer": generated(studio.url, prompt=APPLE, steps=1)}
    studio.page.locator("input[type=file]").set_input_files(png)
    studio.page.get_by_text("picture.png is no list.").wait_for()
    assert studio.page.get_by_role("button", name="Make 2 pictures").is_visible()
    studio.page.locator("input[type=file]").set_input_files({"name": "prompts.txt", "mimeType": "text/plain", "buffer": b"a fox\nan owl\na pizza\n"})
    studio.page.get_by_role("button", name="Make 3 pictures").wait_for()
    studio.page.locator("#batch-text").fill("a fox that was typed")
    drop(studio, b"subject,colour\nfox,purple\nowl,yellow\n", "list.csv", "text/csv")
    studio.page.get_by_role("button", name="Make 2 pictures").wait_for()
    studio.page.get_by_text("Prompts", exact=True).first.click()
    assert studio.page.locator("#batch-text").input_value() == "a fox that was typed"


# how far the columns on either side of a seam between tiles are from each other, in mean distances between neighbours within a tile
SEAM = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 256, 768, 256);
  const apart = (x) => {
    let sum = 0;
    for (let y = 0; y < 256; y += 1) for (let c = 0; c < 3; c += 1) sum += Math.abs(data[4 * (768 * y + x) + c] - data[4 * (768 * y + x + 1) + c]);
    return sum;
  };
  const inside = [...Array(255).keys()].map((x) => apart(256 + x));
  return apart(255) / (inside.reduce((a, b) => a + b) / 255);
}"""


def test_assets_are_tiles_and_sprites_without_background(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.page.get_by_role("link", name="Assets").click()
    asset = studio.page.locator("#asset")
    until(lambda: asset.evaluate("canvas => canvas.width") == 768)
    assert background(studio, "asset") == "blue"
    until(lambda: asset.evaluate(SEAM) < 0.7)
    with studio.page.expect_download() as download:
        studio.page.get_by_role("button", name="Download PNG").click()
    tile = Image.open(download.value.path())
    assert (tile.size, json.loads(tile.info["fewstep"])["tile"]) == ((256, 256), "xy")
    studio.page.get_by_text("Sprite", exact=True).click()
    until(lambda: asset.get_attribute("data-prompt") == APPLE)
    with studio.page.expect_download() as download:
        studio.page.get_by_role("button", name="Download PNG").click()
    alpha = Image.open(download.value.path()).getchannel("A")
    assert (alpha.getpixel((4, 4)), alpha.getpixel((128, 150))) == (0, 255)
    studio.page.get_by_text("Sheet", exact=True).click()
    assert asset.evaluate("canvas => !canvas.getContext('2d').getImageData(0, 0, 512, 128).data.some(Boolean)"), "the sprite is no part of a sheet"
    assert all(studio.page.get_by_role("button", name=name).is_disabled() for name in ("Download PNG", "Download the JSON file")), "there is nothing yet"
    studio.page.locator("#sheet-text").fill("fox\nowl\nstar")
    studio.page.locator("#sheet-columns").fill("2")
    studio.page.get_by_role("button", name="Make the sheet").click()
    studio.page.get_by_text("Tile", exact=True).click()  # meanwhile
    studio.page.get_by_text("Sheet", exact=True).click()
    studio.page.get_by_text("3 sprites.").wait_for()
    with studio.page.expect_download() as download:
        studio.page.get_by_role("button", name="Download PNG").click()
    sheet = Image.open(download.value.path())
    assert (sheet.size, sheet.mode, sheet.info["Software"]) == ((256, 256), "RGBA", "generated by fewstep")
    with studio.page.expect_download() as download:
        studio.page.get_by_role("button", name="Download the JSON file").click()
    places = json.loads(Path(download.value.path()).read_text())["sprites"]
    assert [place["name"] for place in places] == ["fox", "owl", "star"]
    filled = [sheet.crop((place["x"], place["y"], place["x"] + place["w"], place["y"] + place["h"])).getchannel("A").getextrema() for place in places]
    assert filled == [(0, 255)] * 3


def test_a_long_prompt_leaves_the_picture_in_sight(studio: Studio) -> None:
    studio.open()
    studio.write(" ".join([APPLE] * 40))
    stage = studio.page.locator(".frame").bounding_box()
    assert stage and stage["y"] >= 0 and stage["y"] + stage["height"] <= 800
    assert studio.page.evaluate("document.documentElement.scrollHeight") <= 1000


@pytest.mark.parametrize(("width", "height"), [(667, 375), (375, 667)])
def test_on_a_phone_a_comparison_ends_by_the_button_that_began_it(browser: Any, url: str, width: int, height: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", has_touch=True, is_mobile=True)
    studio = Studio(context.new_page(), url)
    studio.open()
    studio.write(APPLE)
    compare = studio.page.locator("[data-tool=compare]")
    for pressed in "true", "false":
        compare.tap()
        until(lambda: compare.get_attribute("aria-pressed") == pressed)  # noqa: B023
    context.close()


def test_on_a_phone_a_second_prompt_opens_where_it_is_seen(browser: Any, url: str) -> None:
    """Below the picture, which stays at the top while one scrolls down to the button."""
    context = browser.new_context(viewport={"width": 375, "height": 667}, reduced_motion="reduce")
    studio = Studio(context.new_page(), url).open()
    studio.write(APPLE)
    studio.run("() => scrollTo(0, document.body.scrollHeight)")
    studio.page.get_by_role("button", name="Blend").first.click()
    seen = """() => {
        const { left, top, width, height } = document.getElementById("blend-prompt").getBoundingClientRect();
        return document.elementFromPoint(left + width / 2, top + height / 2)?.id;
    }"""
    until(lambda: studio.run(seen) == "blend-prompt")
    assert not studio.complaints
    context.close()


def test_it_comes_back_by_itself_when_the_server_was_lost_and_asks_for_a_key(browser: Any) -> None:
    port, key = free_port(), ("--api-key", "a-long-key")
    context = browser.new_context(reduced_motion="reduce")
    with serving(*key, port=port) as url:
        studio = Studio(context.new_page(), url)
        studio.page.goto(url)
        for given in ("not-the-key", "a-long-key"):
            studio.page.get_by_label("Key", exact=True).fill(given)
            studio.page.get_by_role("button", name="Go on").click()
        studio.write(APPLE)
    state = studio.page.locator(".state")
    until(lambda: state.get_attribute("data-state") == "waiting")
    studio.page.get_by_text("The server does not answer. Is fewstep serve running?").wait_for()
    studio.page.locator("#prompt").fill(OWL)  # asked for while nobody is there
    with serving(*key, port=port):
        until(lambda: state.get_attribute("data-state") == "live")
        studio.finished(OWL)
        assert background(studio) == "yellow"
    with serving("--api-key", "another", port=port):  # which the open page does not have
        studio.page.get_by_label("Key", exact=True).fill("another")
        studio.page.get_by_role("button", name="Go on").click()
        studio.write(APPLE)
    assert not studio.complaints
    context.close()


def test_a_server_that_falls_silent_is_not_called_live(browser: Any) -> None:
    """Stopped, it closes nothing, as behind a cable that is pulled; when it goes on, what was asked for last is shown."""
    port = free_port()
    context = browser.new_context(reduced_motion="reduce")
    with serving(port=port) as url:
        studio = Studio(context.new_page(), url).open()
        studio.write(APPLE)
        this = f"serve --port {port}"
        try:
            subprocess.run(["pkill", "-STOP", "-f", this], check=True)
            studio.page.locator("#prompt").fill(OWL)
            studio.page.get_by_text("The server does not answer. Is fewstep serve running?").wait_for()
            assert studio.page.locator(".state").get_attribute("data-state") != "live"
        finally:
            subprocess.run(["pkill", "-CONT", "-f", this], check=True)
        studio.finished(OWL)
        assert background(studio) == "yellow"
        assert not studio.complaints
    context.close()


def test_a_page_elsewhere_follows_typing_and_the_picture_can_be_looked_at(browser: Any, url: str, elsewhere: int, studio: Studio) -> None:
    handler = partial(QuietHandler, directory=str(EXAMPLE))
    with ThreadingHTTPServer(("127.0.0.1", elsewhere), handler) as pages:
        Thread(target=pages.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://localhost:{elsewhere}/?server={url}")
        page.get_by_label("Prompt").type("a fox")
        page.get_by_text("a fox: ").wait_for()
        page.close()
        pages.shutdown()
    studio.open()
    studio.write(APPLE)
    studio.page.get_by_label("Show it elsewhere").click()
    said = studio.page.locator(".notice p").inner_text()
    studio.page.wait_for_timeout(1500)  # nothing moves any more
    viewer = browser.new_page()
    viewer.goto(next(word.rstrip(".") for word in said.split() if word.startswith("http")), wait_until="commit")
    until(lambda: corner(viewer) == "blue", patience=3)  # within the time after which a picture that rests is sent again
    studio.write(OWL)
    until(lambda: corner(viewer) == "yellow", patience=3)
    viewer.close()


def corner(viewer: Any) -> str:
    """What colour a bare page has in the middle of its upper edge, which is the picture's; nothing while the browser paints another."""
    from playwright.sync_api import Error

    try:
        shot = viewer.screenshot()
    except Error:
        return ""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    return nearest(list(image.getpixel((image.width // 2, 8))), COLOURS)


def test_what_goes_wrong_is_said_in_words(studio: Studio) -> None:
    full = {"error": {"message": "64 pictures wait", "type": "rate_limit_error", "param": None, "code": "queue_full"}}
    answers = iter([429])

    def busy(route: Any) -> None:
        if next(answers, None):
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=full)
        else:
            route.continue_()

    studio.open()
    studio.write("a foxx on a purple background")
    mend = studio.page.locator("#hint button")
    assert "“foxx” is new to this model" in studio.page.locator("#hint").inner_text()
    mend.click()
    studio.finished("a fox on a purple background")
    until(lambda: all(time != "–" for time in studio.page.locator(".stop span").all_inner_texts()))  # nothing else asks any more
    studio.page.route("**/v1/generate", busy)
    with studio.page.expect_download():
        studio.keys("s")
        studio.page.get_by_text("The server is busy. Trying again in 1 s.").wait_for()


def test_suggestions_are_reached_by_keys_and_complete_the_prompt(studio: Studio) -> None:
    studio.open()
    studio.page.locator("#prompt").select_text()
    studio.page.keyboard.type("a peng")
    studio.page.locator(".chip", has_text="penguin").wait_for()
    studio.page.keyboard.press("ArrowDown")
    assert studio.page.locator("#prompt").get_attribute("aria-activedescendant") == "suggestions-0"
    studio.page.keyboard.press("Enter")
    assert studio.page.locator("#prompt").input_value() == "a penguin"
    studio.page.get_by_role("option", name="orange").click()
    studio.finished("a penguin on an orange background")
    assert background(studio) == "orange"


def test_lines_that_are_pasted_amid_a_prompt_leave_the_cursor_after_them(studio: Studio) -> None:
    studio.open()
    prompt = studio.page.locator("#prompt")
    prompt.fill("a fox on a blue background")
    studio.run("() => { document.querySelector('#prompt').setSelectionRange(2, 2); document.execCommand('insertText', false, 'big\\nred '); }")
    studio.page.keyboard.type("old ")
    assert prompt.input_value() == "a big red old fox on a blue background"


def test_without_a_prompt_nothing_is_downloaded_or_copied(studio: Studio) -> None:
    studio.open()
    studio.write(APPLE)
    studio.page.locator("#prompt").fill("")
    for action in ("Download as PNG", "Copy the picture"):
        studio.page.get_by_label(action).click()
        studio.page.get_by_text("There is no prompt: say what to draw first.").wait_for()
        studio.page.get_by_label("Close").click()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 568), (1280, 800)])
def test_everything_has_a_name_and_fits_in(browser: Any, url: str, width: int, height: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", has_touch=True)
    studio = Studio(context.new_page(), url)
    for room in ("create", "canvas", "assets", "batch"):
        studio.open(room)
        studio.page.locator(f"#room-{room} button").first.wait_for(state="attached")
        assert studio.run("() => document.documentElement.scrollWidth") <= width
        assert studio.run(NAMELESS) == []
    studio.open()
    studio.page.locator("#prompt").fill("x" * 300 + " ")
    studio.page.locator("#hint", has_text="is new to this model").wait_for()
    assert studio.run("() => document.documentElement.scrollWidth") <= width
    context.close()


NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a[href], canvas[role=img]")]
    .filter((one) => one.checkVisibility() && !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length || one.title))
    .map((one) => one.outerHTML.slice(0, 90))"""
