"""What a dropped picture, or a visit before, asks of a model that cannot do all of it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from tests.browser.stage import Studio, drop

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
APPLE = "a red apple on a blue background"


def saying(**texts: str) -> bytes:
    """A picture that says this of itself."""
    chunks, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=chunks)
    return stream.getvalue()


def kept(studio: Studio) -> Any:
    return json.loads(studio.run("() => localStorage.getItem('fewstep.settings')"))


def test_a_size_that_the_model_cannot_make_is_the_nearest_shape(studio: Studio) -> None:
    studio.open()
    drop(studio, saying(parameters=f"{APPLE}\nSteps: 8, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768"))
    studio.page.get_by_text("Restored from the picture, all but its size of 512 × 768, which is 224 × 288 here.").wait_for()
    studio.finished(APPLE, seed=5, steps=8)
    assert studio.page.get_by_label("Portrait, 3:4").is_checked()


def test_a_size_that_was_kept_and_cannot_be_made_leaves_a_studio_that_works(studio: Studio) -> None:
    settings = {"prompt": APPLE, "seed": 5, "steps": 1, "aspect": "1:1", "size": [512, 768]}
    studio.page.add_init_script(f"localStorage['fewstep.settings'] ??= {json.dumps(json.dumps(settings))}")
    studio.open()
    studio.finished(APPLE, seed=5)
    assert (kept(studio)["aspect"], kept(studio)["size"]) == ("3:4", None)


@pytest.mark.parametrize("record", ["null", "7", '{"prompt": '])
def test_a_record_that_is_none_is_said_to_be_damaged(studio: Studio, record: str) -> None:
    studio.open()
    drop(studio, saying(fewstep=record))
    studio.page.get_by_text("What this picture says of how it was made is damaged.").wait_for()


def test_whoever_was_here_before_is_shown_no_example(studio: Studio) -> None:
    studio.page.add_init_script(f"localStorage['fewstep.settings'] ??= {json.dumps(json.dumps({'prompt': '', 'seed': 99, 'locked': True}))}")
    studio.open()
    studio.page.wait_for_timeout(500)
    studio.write(APPLE)
    assert (studio.shown()["seed"], kept(studio)["locked"]) == ("99", True)
