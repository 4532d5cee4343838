"""The film of a run: what a column shows at a moment is its latest frame by then, and the page needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.distill.watch.film import MOST, SIDE, film, frame_path, frames, write_frame, write_index

HOSTILE = '</script><img src=x onerror="document.title=1">'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two columns: five looks at an 8-step student, then forty at a 1-step one. Each frame's grey says its number."""
    write_index(tmp_path, ["a fox", HOSTILE], 32)
    grey = 10
    for name in ("teacher", "start-8", "start-1"):
        write_frame(np.full((2, 64, 32, 3), grey, np.uint8), frame_path(tmp_path, name))
    lines = [("16to8/mse", update) for update in range(5)] + [("4to1/warm", update) for update in range(40)]
    for grey, (phase, update) in enumerate(lines, start=20):
        write_frame(np.full((2, 64, 32, 3), grey, np.uint8), frame_path(tmp_path, phase, update))
    told = [{"phase": phase, "update": update, "seconds": 1.0 + number, "endpoint": 0.5} for number, (phase, update) in enumerate(lines)]
    lost = {"phase": "4to1/full", "update": 2, "seconds": 99.0}  # a look whose frame was never written
    (tmp_path / "health.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*told, lost]))
    return tmp_path


def data(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="film-frames">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    content: dict[str, object] = json.loads(found[1])
    return content


def test_frames_are_one_picture_above_the_other_and_small(folder: Path) -> None:
    with Image.open(frame_path(folder, "16to8/mse", 3)) as picture:
        assert picture.size == (SIDE // 2, 2 * SIDE)
        assert abs(np.asarray(picture).astype(int) - 23).max() <= 2


def test_what_has_no_index_has_no_film(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    write_frame(np.zeros((1, 8, 8, 3), np.uint8), frame_path(tmp_path, "4to2/full", 1))
    assert not list((tmp_path / "film").iterdir())
    assert film(tmp_path) == ""


def test_each_column_begins_before_training_and_ends_with_its_last_look(folder: Path) -> None:
    shown = frames(folder)
    assert len(shown) == 2 + 45
    content = data(film(folder))
    columns, moments = content["columns"], content["moments"]
    assert isinstance(columns, dict) and isinstance(moments, list)
    assert list(columns) == ["8", "1"]
    assert [len(of) for of in columns.values()] == [6, MOST]
    assert all(of[0][0] == 0 for of in columns.values())
    assert columns["1"][-1][0] == len(moments) - 1
    assert moments[columns["8"][-1][0]]["said"].endswith("16 to 8 steps, mse, update 4")
    assert [since for since, _ in columns["1"]] == sorted({since for since, _ in columns["1"]})


def test_the_page_asks_for_nothing_and_takes_prompts_as_text(folder: Path) -> None:
    page = film(folder)
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "http" not in page
