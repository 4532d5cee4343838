"""The command line with images: what begins from one, what is varied, and a sentence for every picture that is none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.cli import main
from fewstep.engine.files import read_record

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fewstep(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``fewstep generate`` with the tiny model, in a working directory with a.png, mask.png and other.png. Returns (code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).convert("RGB").save("a.png")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (48, 0, 96, 64))
    mask.save("mask.png")
    Image.new("RGB", (96, 64), "red").save("other.png")
    Image.new("L", (10, 10)).save("small.png")
    Path("binary").write_bytes(b"\xff\xfe\x00\xd8")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["generate", "--model", str(tiny), *map(str, arguments)])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def test_a_picture_from_an_image_says_its_strength(fewstep: Run) -> None:
    code, out, err = fewstep("pizza", "--image", "a.png", "--strength", "0.5", "--seed", 3)
    assert (code, err) == (0, "")
    assert out.startswith("pizza-3.png  seed 3  4 steps  strength 0.5  96x64  text ")
    made = json.loads(fewstep("pizza", "--image", "a.png", "--json", "--aspect", "16:9")[1])
    assert (made["strength"], made["width"], set(made["timings_ms"])) == (0.5, 336, {"text", "encode", "denoise", "decode"})


@pytest.mark.parametrize(
    ("strength", "said"),
    [
        ("0.1", "strength 0.1 was asked for and 0.25 is used: 4 steps have the strengths 0.25, 0.5, 0.75 and 1\n"),
        ("0.9", "strength 0.9 was asked for and 1 is used: .*; at 1 nothing is left of the image\n"),
    ],
)
def test_a_strength_that_was_not_trained_is_a_note(fewstep: Run, strength: str, said: str) -> None:
    code, _, err = fewstep("pizza", "--image", "a.png", "--strength", strength)
    assert code == 0
    assert re.fullmatch(f"note: {said}", err)


def test_inpainting_and_extending(fewstep: Run) -> None:
    assert fewstep("pizza", "--image", "a.png", "--mask", "mask.png", "--out", "in.png")[0] == 0
    assert fewstep("pizza", "--image", "a.png", "--outpaint", "16,0,0,16", "--steps", 2, "--out", "wide.png")[0] == 0
    before, inside, wide = (np.asarray(Image.open(name)) for name in ("a.png", "in.png", "wide.png"))
    assert np.array_equal(inside[:, :48], before[:, :48]) and not np.array_equal(inside, before)
    assert wide.shape == (80, 112, 3) and np.array_equal(wide[:64, 16:], before)


def test_what_is_varied_is_repeated_to_the_byte(fewstep: Run) -> None:
    varied = ("--blend", "ghost", "--blend-weight", "0.3", "--variation-seed", 4, "--variation", "0.2", "--variation", "9:0.1", "--transparent")
    made = [json.loads(line)["path"] for line in fewstep("pizza", "--count", 2, "--steps", 2, "--size", "64x64", "--json", *varied)[1].splitlines()]
    assert Image.open(made[0]).mode == "RGBA"
    for path in made:
        assert fewstep("--from", path, "--out", "again.png")[0] == 0
        assert Path("again.png").read_bytes() == Path(path).read_bytes()
    record = read_record(Path(made[1]))
    assert (record.variation_seed, record.variation, record.variations) == (4, 0.2, ((9, 0.1),))


def test_what_was_begun_from_an_image_is_repeated_with_that_image(fewstep: Run) -> None:
    assert fewstep("pizza", "--image", "a.png", "--mask", "mask.png", "--strength", "0.5", "--out", "made.webp")[0] == 0
    assert fewstep("--from", "made.webp", "--image", "a.png", "--mask", "mask.png", "--out", "again.webp")[0] == 0
    assert Path("again.webp").read_bytes() == Path("made.webp").read_bytes()
    for given, said in (
        ((), "made from an image: give that one with --image FILE and its mask with --mask FILE"),
        (("--image", "a.png"), "its mask with --mask FILE"),
        (("--image", "other.png", "--mask", "mask.png"), "the image is not the one that the picture was made from"),
        (("--image", "a.png", "--mask", "a.png"), "the mask is not the one"),
    ):
        code, out, err = fewstep("--from", "made.webp", "--out", "wrong.webp", *given)
        assert (code, out) == (2, "") and said in err
        assert not Path("wrong.webp").exists()


def test_a_sheet_of_all_with_its_atlas(fewstep: Run) -> None:
    code, _, err = fewstep("pizza", "ghost", "--count", 2, "--seed", 1, "--steps", 1, "--size", "64x64", "--transparent", "--sheet", "all.png")
    uncut = "note: 4 of 4 have no background of one colour to cut out and are opaque, the first pizza-1.png\n"  # the model has learnt nothing
    assert (code, err) == (0, f"{uncut}the sheet is all.png, its atlas all.json\n")
    atlas = json.loads(Path("all.json").read_text())
    assert [one["name"] for one in atlas["sprites"]] == ["pizza-1", "pizza-2", "ghost-1", "ghost-2"]
    sheet = Image.open("all.png")
    for one in atlas["sprites"]:
        box = (one["x"], one["y"], one["x"] + one["w"], one["y"] + one["h"])
        assert np.array_equal(np.asarray(sheet.crop(box)), np.asarray(Image.open(f"{one['name']}.png")))
        assert read_record(Path(f"{one['name']}.png")).transparent


BAD = {
    "strength of nothing": (("--strength", "0.5"), "strength was given without image"),
    "mask of nothing": (("--mask", "mask.png"), "mask was given without image"),
    "outpaint of nothing": (("--outpaint", "16,0,0,0"), "outpaint was given without image"),
    "weight of nothing": (("--blend-weight", "0.5"), "blend_weight was given without blend"),
    "variation of nothing": (("--variation-seed", "5"), "variation_seed was given without variation"),
    "variation by words": (("--variation", "much"), "variation 'much': give a share from 0 to 1, or SEED:SHARE"),
    "variation without a seed": (("--variation", "-1:0.5"), "variation '-1:0.5': write it as SEED:SHARE"),
    "variation too far": (("--variation", "9:1.5"), r"the share of variations\[0\] = 1.5: give a number from 0 to 1"),
    "two shares": (("--variation", "0.5", "--variation", "0.2"), "a share without a seed goes with --variation-seed"),
    "from and a variation": (("--from", "a.png", "--variation", "9:0.5"), "give it alone"),
    "no file": (("--image", "none.png"), "--image none.png cannot be read"),
    "a folder": (("--image", "."), r"--image \. cannot be read"),
    "no picture": (("--image", "binary"), "the picture of --image binary is no PNG, WebP or JPEG"),
    "a mask of another size": (("--image", "a.png", "--mask", "small.png"), "the mask has 10x10 pixels and the image 96x64"),
    "too strong": (("--image", "a.png", "--strength", "1.5"), "strength = 1.5: give a number from 0 to 1"),
    "one step": (("--image", "a.png", "--steps", "1"), "1 step leaves nothing of an image"),
    "margins off the grid": (("--image", "a.png", "--outpaint", "5,0,0,0"), "size 101x64"),
    "margins that are none": (("--image", "a.png", "--outpaint", "left"), "outpaint 'left': write it as LEFT,TOP,RIGHT,BOTTOM"),
    "a transparent JPEG": (("--transparent", "--format", "jpeg"), "a JPEG has no transparent background"),
    "a transparent JPEG by name": (("--transparent", "--out", "x.jpg"), "a JPEG has no transparent background"),
    "a sheet that is no PNG": (("--sheet", "x.jpg"), "a sheet is a PNG"),
    "from and blend": (("--from", "a.png", "--blend", "x"), "give it alone"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(fewstep: Run, tmp_path: Path, case: str) -> None:
    arguments, sentence = BAD[case]
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = fewstep(*(() if "--from" in arguments else ("pizza",)), *arguments)
    assert (code, out) == (2, "")
    assert re.search(f"^fewstep: .*{sentence}", err) and err.count("\n") == 1, err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
