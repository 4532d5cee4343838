"""Many pictures in one, and an atlas that finds them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.engine.files import read_record
from fewstep.engine.request import Request, RequestError
from fewstep.engine.run import generate
from fewstep.engine.sheet import MOST_SIDE, check_sheet, pack, write_sheet


def sprites(count: int, mode: str = "RGB") -> list[tuple[str, Image.Image]]:
    rng = np.random.default_rng(count)
    sizes = [(int(w), int(h)) for w, h in rng.integers(8, 40, (count, 2))]
    depth = len(mode)
    return [(f"sprite {n}", Image.fromarray(rng.integers(0, 256, (h, w, depth), np.uint8))) for n, (w, h) in enumerate(sizes)]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 17])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_each_is_found_where_the_atlas_says(tmp_path: Path, count: int, mode: str) -> None:
    pictures = sprites(count, mode)
    atlas = json.loads(write_sheet(pictures, tmp_path / "all.png").read_text())
    with Image.open(tmp_path / "all.png") as sheet:
        assert (sheet.mode, sheet.size) == (mode, (atlas["width"], atlas["height"]))
        assert [sprite["name"] for sprite in atlas["sprites"]] == [name for name, _ in pictures]
        taken = np.zeros((sheet.height, sheet.width), int)
        for sprite, (_, image) in zip(atlas["sprites"], pictures, strict=True):
            x, y, w, h = (sprite[key] for key in "xywh")
            assert np.array_equal(np.asarray(sheet.crop((x, y, x + w, y + h))), np.asarray(image))
            taken[y : y + h, x : x + w] += 1
    assert atlas["image"] == "all.png"
    assert taken.max() == 1, "none lies on another"


def test_a_sheet_never_takes_a_pictures_name(tiny: Path, tmp_path: Path) -> None:
    def make(out: Path, sheet: Path) -> int:
        return generate(str(tiny), [Request("a red apple", 3, 1)], None, (out, None, sheet), False, None, "eager", "full", None)

    with pytest.raises(RequestError, match="the picture's own name"):
        make(tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(RequestError, match="a picture that was made now"):
        make(tmp_path, tmp_path / "a-red-apple-3.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a-red-apple-3.png"]
    assert read_record(tmp_path / "a-red-apple-3.png").seed == 3


def test_what_no_sheet_can_hold_or_replace_is_found_before_a_picture_is_made(tmp_path: Path) -> None:
    check_sheet(tmp_path / "all.png", 1024, 512, 512)
    with pytest.raises(RequestError, match="a sheet of 1025 pictures has 16896x16384 pixels"):
        check_sheet(tmp_path / "all.png", 1025, 512, 512)
    write_sheet(sprites(2), tmp_path / "all.png")
    check_sheet(tmp_path / "all.png", 3, 64, 64)
    for content in (b'{"name": "my notes"}', b"[1]", b"3", b"notes", b"\xff"):
        (tmp_path / "notes.json").write_bytes(content)
        with pytest.raises(RequestError, match="which is there and no atlas"):
            check_sheet(tmp_path / "notes.png", 3, 64, 64)


def test_what_is_no_sheet() -> None:
    for wrong in ([], [("a", Image.new("L", (MOST_SIDE + 1, 1)))]):
        with pytest.raises(RequestError, match="a sheet of"):
            pack(wrong)
