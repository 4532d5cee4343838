"""What ``fewstep models`` prints is the table of known models and the state of this disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.hub import make, plain, publish

from fewstep.engine.listing import describe, how, known
from fewstep.zoo.known import KNOWN


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_known_model_has_a_line_with_licence_size_steps_and_state() -> None:
    lines = list(known())
    assert [line.split()[0] for line in lines] == list(KNOWN)
    for line, one in zip(lines, KNOWN.values(), strict=True):
        assert one.licence.split(" (")[0] in line and one.about in line
        assert ("  here  " if one.name == "emoji" else "  not here  ") in line
        assert "MB" in line or "GB" in line
    assert "  1, 2, 4, 8  " in lines[2] and "  2 to 8  " in lines[-1] and "  50  " in lines[1]


def test_what_is_fetched_is_no_longer_missing(cache: Path, tmp_path: Path) -> None:
    lightning = KNOWN["sdxl-lightning"]
    one = lightning.choose(4)
    assert one is not None
    before = list(describe("sdxl-lightning"))
    publish(cache, lightning.repo, {one.file: make(one, tmp_path / one.file)})
    after = list(describe("sdxl-lightning"))
    fetch = f"fetch  hf download {lightning.repo} {one.file}"
    assert fetch in before and fetch not in after
    assert [line for line in after if "here)" in line and "not here)" not in line] == [
        f"4 steps  {one.file} (unet, 5.14 GB, here): at 999, 749, 499, 249, no new noise"
    ]
    folder = plain(tmp_path / "base")
    publish(cache, KNOWN["sdxl"].repo, {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()})
    assert not any(KNOWN["sdxl"].repo in line for line in describe("sdxl-lightning") if line.startswith("fetch"))
    assert "steps  its teacher for 16 to 1000 steps" in list(describe("sdxl"))


def test_how_rows_are_sampled_in_words() -> None:
    said = {(name, one.row.kind, one.row.steps): how(one.row) for name, known in KNOWN.items() for one in known.weights}
    assert said["sdxl-lightning", "unet", 1] == "at 999, predicts the picture"
    assert said["hyper-sd", "unet", 1] == "at 800"
    assert said["lcm-lora", "lora", 4] == "at 999, 759, 499, 259, all noise new"
    assert how((KNOWN["sdxl-turbo"].rows or {})[2]) == "at 999, 499, part of the noise new"


def test_a_folder_says_what_it_does(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "mine")
    assert list(describe(str(copy)))[-1] == f"subjects  {len(json.loads((copy / 'words.json').read_text())['subjects'])}"
    (copy / "words.json").unlink()
    assert not any(line.startswith("subjects") for line in describe(str(copy)))
