"""The command line with control images: followed, recorded, made again, and a sentence where they do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests import nets

from fewstep.cli import main
from fewstep.engine.files import read_record
from fewstep.models.bundle import load_bundle


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["generate", *map(str, arguments)])
    return int(caught.value.code or 0), capsys.readouterr().err


def test_what_follows_an_image_is_made_again_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nets.build(load_bundle(tiny), 1).save_pretrained("edges")
    Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).save("a.png")
    model = ("--model", tiny, "--out", "made.png")
    code, err = run(capsys, "pizza", "--control", "a.png", "--hint", "lineart", "--controlnet", "edges:0.75:0-0.5", *model)
    record = read_record(Path("made.png"))
    assert (code, err) == (0, "") and record.control is not None
    assert (record.width, record.control[0].net, record.control[0].hint, record.control[0].weight, record.control[0].end) == (96, "edges", "lineart", 0.75, 0.5)
    before = Path("made.png").read_bytes()
    assert run(capsys, "--from", "made.png", "--control", "a.png", "--controlnet", "edges", "--model", tiny, "--out", "again.png") == (0, "")
    assert Path("again.png").read_bytes() == before
    for arguments, said in {
        ("--from", "made.png", *model): "followed lineart hint",
        ("--from", "made.png", "--control", "a.png", "--hint", "lineart", *model): "give it alone, at most with --image, --mask, --control",
        ("pizza", "--hint", "canny", *model): "0 --control and 1 --hint were given",
        ("pizza", "--controlnet", "edges", *model): "0 --control and 1 --controlnet were given",
        ("pizza", "--control", "a.png", *model): "has no ControlNet of its own: give one with --controlnet",
        ("pizza", "--control", "none.png", *model): "--control none.png cannot be read",
        ("pizza", "--control", "a.png", "--hint", "pose", "--controlnet", "edges", *model): "hint = 'pose'",
    }.items():
        code, err = run(capsys, *arguments)
        assert code == 2 and said in err, err
    assert run(capsys, "pizza", "--control", "a.png", "--controlnet", "own:0", "--model", tiny, "--out", "without.png") == (0, "")
    assert read_record(Path("without.png")).control is None
    assert Path("made.png").read_bytes() == before, "nothing is written over by what was refused"
