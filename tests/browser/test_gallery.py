"""The page that a batch job leaves: opened from the disk, it filters and sorts, and what a manifest holds is text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.batch.gallery import page

pytestmark = pytest.mark.browser

HOSTILE = '</script><img src=x onerror="document.title=1">'
LINES = [
    {"index": 0, "row": 1, "path": "pictures/a b%.png", "prompt": "a red apple", "seed": 2, "width": 8, "height": 8, "score": 0.5, "labels": {"animal": "fox"}},
    {"index": 1, "row": 2, "path": "pictures/c.png", "prompt": HOSTILE, "seed": 1, "width": 8, "height": 8, "score": 0.9, "labels": {"animal": "owl"}},
    {"index": 2, "row": 3, "error": "3 steps were asked for"},
]


@pytest.fixture
def gallery(browser: Any, tmp_path: Path) -> Any:
    (tmp_path / "pictures").mkdir()
    for line in LINES[:2]:
        Image.new("RGB", (8, 8), "red").save(tmp_path / str(line["path"]))
    (tmp_path / "index.html").write_text(page(LINES, f"job {HOSTILE}", 3, lambda line: None))
    context = browser.new_context()
    opened, complaints = context.new_page(), list[str]()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("requestfailed", lambda request: complaints.append(request.url))
    opened.goto((tmp_path / "index.html").as_uri())
    yield opened
    context.close()
    assert not complaints


def shown(gallery: Any) -> list[str]:
    texts: list[str] = gallery.locator("figcaption small").all_inner_texts()
    return [text.split(" · ")[0] for text in texts]


def test_it_shows_filters_and_sorts(gallery: Any) -> None:
    assert shown(gallery) == ["row 1", "row 2", "row 3"]
    assert gallery.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth === 8)")
    gallery.fill("#filter", "FOX red")
    assert shown(gallery) == ["row 1"]
    gallery.fill("#filter", "asked")
    assert shown(gallery) == ["row 3"]
    gallery.fill("#filter", "")
    gallery.select_option("#sort", "seed")
    assert shown(gallery) == ["row 2", "row 1", "row 3"], "what has no seed comes last"
    gallery.check("#down")
    gallery.select_option("#sort", "labels.animal")
    assert shown(gallery) == ["row 2", "row 1", "row 3"]
    assert gallery.locator("#count").inner_text() == "3 of 3"


def test_what_a_manifest_holds_is_never_markup(gallery: Any) -> None:
    assert gallery.title() == f"job {HOSTILE}"
    assert gallery.locator("figcaption").nth(1).inner_text().startswith(HOSTILE)
    assert gallery.locator("img").count() == 2
