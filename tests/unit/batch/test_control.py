"""Lists name control images by their paths; a picture's key goes by what is in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.batch.fake import MAKER

from fewstep.batch.fields import parse
from fewstep.engine.control import Control, Hint, Net
from fewstep.engine.request import Request, RequestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    return tmp_path


def test_a_cell_is_a_path_or_tables(folder: Path) -> None:
    assert [one.hint for one in parse("control", "a.png; b.png", folder)] == ["given", "given"]
    (folder / "edges").mkdir()
    near, far = parse("control", [{"image": "a.png", "hint": "canny", "net": net, "weight": 0.5} for net in ("edges", "someone/edges")], folder)
    assert (near.hint, near.net, near.weight, near.image.size) == ("canny", folder / "edges", 0.5, (8, 8))
    assert far.net == "someone/edges", "an id of the Hub"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "give the path of a picture"),
        ([{"hint": "canny"}], "there is no image"),
        ([{"image": "a.png", "nets": "x"}], "'nets' is not known"),
        ("c.png", "cannot be read"),
    ],
)
def test_what_is_none_is_a_sentence(folder: Path, value: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse("control", value, folder)


@pytest.mark.parametrize("net", ["a\0", "\ud800", "x" * 5000])
def test_a_name_that_no_file_can_have_is_no_folder(folder: Path, net: str) -> None:
    (one,) = parse("control", [{"image": "a.png", "net": net}], folder)
    assert one.net == net


def test_a_key_goes_by_what_is_read_and_by_whom() -> None:
    def key(content: str, net: str, weight: float) -> str:
        hint = Hint(np.zeros((64, 64, 3), np.uint8), content, "given", Net("edges", Path(net), net, {}), weight, 0.0, 1.0)
        limits = dataclasses.replace(MAKER.limits, guides=lambda *asked: (hint,))
        return MAKER.key(limits.settle(Request("a", 1, control=[Control(Image.new("L", (64, 64)))])))

    keys = [
        key("one", "a", 1.0),
        key("one", "a", 1.0),
        key("two", "a", 1.0),
        key("one", "b", 1.0),
        key("one", "a", 0.5),
        MAKER.key(MAKER.limits.settle(Request("a", 1))),
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 5
