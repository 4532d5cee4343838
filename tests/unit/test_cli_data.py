"""``fewstep data emoji``: scenes as files, whole, resumable, a function of their seed; and a source for ``fewstep data prepare``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from fewstep.cli import main
from fewstep.data.buckets import BUCKETS
from fewstep.data.emoji import SIDES
from fewstep.data.export import write_scenes
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import read_recipe

SUBJECTS = ("pizza", "ghost", "red apple")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of drawings in the layout of ../shared/data: a disc of its own colour for each subject."""
    folder = tmp_path / "source"
    folder.mkdir()
    rows = ["name\tgroup\tkeywords\tfile"]
    for number, name in enumerate(SUBJECTS):
        drawing = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(drawing).ellipse((4, 4, 60, 60), fill=(80 * number, 200, 90, 255))
        drawing.save(folder / f"{number}.png")
        rows.append(f"{name}\tFood & Drink\tround | thing\t{number}.png")
    (folder / "noto-emoji.tsv").write_text("\n".join(rows), encoding="utf8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_and_captions_belong_together(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "emoji", "--source", str(source), "--out", str(tmp_path / "out"), "--count", "12", "--subjects", "all"])
    assert not caught.value.code
    lines = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text(encoding="utf8").splitlines()]
    assert [line["file"] for line in lines] == [f"{index:06d}.png" for index in range(12)]
    for line in lines:
        assert line["subject"] in SUBJECTS
        with Image.open(tmp_path / "out" / line["file"]) as picture:
            assert picture.size in BUCKETS


def test_scenes_are_what_the_model_was_taught_but_for_what_is_set(source: Path, tmp_path: Path) -> None:
    plan = read_recipe(Path(__file__).parents[2] / "recipes" / "emoji.toml", DistillPlan)
    command = ["data", "emoji", "--source", str(source), "--count", "12", "--subjects", "all"]
    for out, more in (("taught", ()), ("set", ("--set", "pair=1", "--set", "turn=5"))):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--out", str(tmp_path / out), *more])
        assert not caught.value.code
    taught, other = (json.loads((tmp_path / out / "scenes.json").read_text())["dials"] for out in ("taught", "set"))
    assert taught == vars(plan.data.dials)
    assert other == {**taught, "pair": 1.0, "turn": 5.0}
    captions = [json.loads(line)["caption"] for line in (tmp_path / "set" / "captions.jsonl").read_text().splitlines()]
    assert sum(any(side in caption for side in SIDES) for caption in captions) >= 4  # where the second is not the first again


@pytest.mark.parametrize(
    ("setting", "says"), [("places=1", "a dial is one of keyword, "), ("place=much", "'much' is no number"), ("place=2", "between 0 and 1")]
)
def test_a_dial_that_is_none_is_a_sentence(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, says: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "emoji", "--source", str(source), "--out", str(tmp_path / "out"), "--set", setting])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interrupted_export_goes_on_and_ends_the_same(source: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert write_scenes(source, whole, 8, "all", seed=3) == 8
    assert write_scenes(source, resumed, 5, "all", seed=3) == 5
    (resumed / "000002.png").unlink()
    assert write_scenes(source, resumed, 8, "all", seed=3) == 4
    assert contents(whole) == contents(resumed)


def test_another_seed_gives_other_scenes_and_wants_another_folder(source: Path, tmp_path: Path) -> None:
    write_scenes(source, tmp_path / "one", 4, "all", seed=1)
    write_scenes(source, tmp_path / "two", 4, "all", seed=2)
    assert (tmp_path / "one" / "captions.jsonl").read_bytes() != (tmp_path / "two" / "captions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds scenes of other settings"):
        write_scenes(source, tmp_path / "one", 4, "all", seed=2)


@pytest.mark.parametrize(("option", "value", "sentence"), [("--count", "0", "count = 0"), ("--subjects", "most", "'groups' or 'all'")])
def test_bad_settings_are_one_sentence(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, sentence: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "emoji", "--source", str(source), "--out", str(tmp_path / "out"), option, value])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_what_is_neither_rendered_nor_prepared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "cats", "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "No such command 'cats'" in capsys.readouterr().err


def test_scenes_are_a_source_to_prepare(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From rendering to shards with the embedded model: every scene is kept but a repeated one, uncropped, in its own bucket."""
    with pytest.raises(SystemExit):
        main(["data", "emoji", "--source", str(source), "--out", str(tmp_path / "scenes"), "--count", "12", "--subjects", "all"])
    with pytest.raises(SystemExit) as caught:
        main(["data", "prepare", str(tmp_path / "scenes"), "--out", str(tmp_path / "shards"), "--min-sharpness", "0", "--device", "cpu"])
    assert not caught.value.code
    audit = json.loads((tmp_path / "shards" / "audit.json").read_text())
    assert audit["seen"] == 12 == audit["kept"] + audit["dropped"].get("duplicate", 0)
    for path in (tmp_path / "shards").glob("*-*.safetensors"):
        width, height = map(int, path.stem.partition("-")[2].split("x"))
        assert load_file(path)["time_ids"].unique(dim=0).tolist() == [[height, width, 0, 0, height, width]]
    assert ["kept", str(audit["kept"])] in [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
