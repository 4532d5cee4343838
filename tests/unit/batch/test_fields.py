"""Columns that are fields: every field of a request has one, and text means what a value does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewstep.batch.fields import FIELDS, parse, parse_settings
from fewstep.engine.request import Request, RequestError

SAME: dict[str, tuple[str, Any, Any]] = {  # as text, as JSON has it, as Request takes it
    "prompt": ("a fox", "a fox", "a fox"),
    "seed": (" 7 ", 7, 7),
    "blend_weight": ("0.25", 0.25, 0.25),
    "transparent": ("Yes", True, True),
    "literal": ("0", False, False),
    "outpaint": ("16,0,16,0", [16, 0, 16, 0], (16, 0, 16, 0)),
    "original_size": ("64x32", [64, 32], (64, 32)),
    "crop": ("1,2", [1, 2], (1, 2)),
    "variations": ("9:0.5; 12:0.25", ["9:0.5", [12, 0.25]], ((9, 0.5), (12, 0.25))),
    "loras": ("a.safetensors:0.5; b.safetensors", ["a.safetensors:0.5", ["b.safetensors", 1.0]], ((Path("a.safetensors"), 0.5), (Path("b.safetensors"), 1.0))),
}


def test_every_field_of_a_request_is_a_column() -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(Request)}


@pytest.mark.parametrize("name", SAME)
def test_text_and_value_mean_the_same(name: str) -> None:
    text, value, meant = SAME[name]
    assert parse(name, text, Path()) == parse(name, value, Path()) == meant


def test_flags_are_words_as_people_write_them() -> None:
    assert [parse("literal", word, Path()) for word in ("on", "YES", "1", "off", "no", "0")] == [True, True, True, False, False, False]


@pytest.mark.parametrize("value", [7.0, "7.0", "+7", "7."])
@pytest.mark.parametrize("name", ["seed", "steps", "width", "height", "variation_seed"])
def test_a_whole_number_may_be_written_as_a_float(name: str, value: Any) -> None:
    """As pandas does with a column that has a gap."""
    found = parse(name, value, Path())
    assert (found, type(found)) == (7, int)


def test_pictures_and_loras_lie_beside_the_manifest(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    assert parse("image", "red.png", tmp_path).getpixel((0, 0)) == (255, 0, 0)
    assert parse("loras", "style.safetensors", tmp_path) == ((tmp_path / "style.safetensors", 1.0),)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("seed", "7.5", "seed = '7.5': give a whole number"),
        ("seed", 7.5, "seed = 7.5: give a whole number"),
        ("seed", 2.0**53 + 2, "give a whole number"),
        ("steps", True, "steps = True: give a whole number"),
        ("width", 10**30, "give a whole number"),
        ("aspect", [16, 9], r"aspect = \[16, 9\]: give a text"),
        ("image", "a\0.png", r"image 'a\\x00.png': no file can have this name"),
        ("image", "\ud800.png", "no file can have this name"),
        ("image", "x" * 5000, "image 'x{199}: no file can have this name"),
        ("variation", "much", "give a number"),
        ("variations", "9:0.5; 12", "give a share from 0 to 1, or SEED:SHARE"),
        ("image", "none.png", "image .*none.png cannot be read"),
        ("image", 7, "give the path of a picture"),
        ("crop", "1x2", "LEFT,TOP"),
        ("outpaint", "1,2", "LEFT,TOP,RIGHT,BOTTOM"),
        ("outpaint", 7, "LEFT,TOP,RIGHT,BOTTOM"),
        ("outpaint", [10**6, 0, 0, 0], "LEFT,TOP,RIGHT,BOTTOM"),
        ("loras", "style.pt", "FILE.safetensors"),
    ],
)
def test_what_a_cell_cannot_mean_is_a_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        parse(name, value, Path())


@pytest.mark.parametrize("value", ["perhaps", 1, [1]])
def test_what_is_no_flag_is_left_to_the_request_to_refuse(value: Any) -> None:
    with pytest.raises(RequestError, match="transparent"):
        Request("a fox", transparent=parse("transparent", value, Path()))


def test_settings_are_fields() -> None:
    assert parse_settings(["steps=2", "negative=a=b"]) == {"steps": 2, "negative": "a=b"}
    for wrong, sentence in (("negativ=x", "'negative' for instance"), ("steps", "FIELD=VALUE")):
        with pytest.raises(RequestError, match=sentence):
            parse_settings([wrong])
