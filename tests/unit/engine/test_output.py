"""Where pictures go, found out before any is made; and the picture in a terminal."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from fewstep.engine.files import write_bytes
from fewstep.engine.output import Output, free_name, open_output, slug
from fewstep.engine.preview import half_blocks
from fewstep.engine.record import Record
from fewstep.engine.request import Picture, RequestError


@pytest.mark.parametrize(("name", "kind"), [("a.PNG", "png"), ("a.webp", "webp"), ("a.jpg", "jpeg"), ("a.JPEG", "jpeg")])
def test_a_pictures_name_is_a_file_and_says_its_format(tmp_path: Path, name: str, kind: str) -> None:
    for asked in (None, kind):
        output = open_output(tmp_path / "new" / name, 1, asked)
        assert (output.folder, output.file, output.format) == (tmp_path / "new", name, kind)


@pytest.mark.parametrize("kind", [None, "png", "webp", "jpeg"])
def test_anything_else_is_a_folder_for_one_format(tmp_path: Path, kind: str | None) -> None:
    for place in (None, tmp_path, tmp_path / "v1.0"):
        output = open_output(place, 3, kind)
        assert (output.folder, output.file, output.format) == (place or Path(), None, kind or "png")
    assert (tmp_path / "v1.0").is_dir()


def test_a_folder_may_be_called_like_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.webp").mkdir()
    assert open_output(tmp_path / "a.webp", 2, "jpeg").format == "jpeg"


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    open_output(tmp_path / "out", 2)
    assert list((tmp_path / "out").iterdir()) == []


def test_several_pictures_do_not_fit_one_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="2 pictures are asked for: give a folder"):
        open_output(tmp_path / "a.png", 2)


@pytest.mark.parametrize("name", ["a.gif", "a.TIFF", "a.avif"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"ends in \.png, \.webp or \.jpg, or a folder$"):
        open_output(tmp_path / name, 1)
    with pytest.raises(RequestError, match=r"--format gif: there is png, webp and jpeg$"):
        open_output(tmp_path, 1, "gif")
    assert list(tmp_path.iterdir()) == []


def test_a_name_and_a_format_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a\.png and --format webp do not go together"):
        open_output(tmp_path / "a.png", 1, "webp")


@pytest.mark.parametrize("name", ["file/x.png", "file/deeper/x.png", "file/folder"])
def test_a_place_that_cannot_be_written_is_found_before_generating(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        open_output(tmp_path / name, 1)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A red apple!", "a-red-apple"), ("../../etc/passwd", "etc-passwd"), ("", "picture"), ("猫", "picture"), ("é" * 200, "e" * 60)],
)
def test_names_from_prompts_are_plain(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_names_never_meet(tmp_path: Path) -> None:
    for expected in ("a.png", "a-2.png", "a-3.png"):
        path = free_name(tmp_path, "a", ".png")
        assert path.name == expected
        path.touch()
    assert free_name(tmp_path, "a", ".webp").name == "a.webp"


def test_pictures_that_are_saved_at_once_never_meet(tmp_path: Path) -> None:
    together, count = threading.Barrier(4), 25
    picture = Picture(Image.new("RGB", (8, 8)), 3, 1, 8, 8, "emoji", {}, Record("a fox", 3, 1, 8, 8, "emoji", "0" * 12, 0.0, "0", "eager", "cpu", 1))

    def save(_: int) -> list[Path]:
        paths = []
        for _ in range(count):
            together.wait()
            paths.append(Output(tmp_path).save(picture))
        return paths

    with ThreadPoolExecutor(4) as pool:
        told = [path for paths in pool.map(save, range(4)) for path in paths]
    assert sorted(told) == sorted(tmp_path.iterdir()) and len(set(told)) == 4 * count


def test_the_standard_output_takes_no_pictures() -> None:
    with pytest.raises(RequestError, match="none goes to the standard output"):
        open_output(Path("-"), 1)


def test_half_blocks_show_two_pixels_a_character() -> None:
    image = Image.new("RGB", (64, 64), (255, 0, 0))
    image.paste((0, 0, 255), (0, 32, 64, 64))
    lines = half_blocks(image, 8).split("\n")
    assert len(lines) == 4
    assert all(line.count("▀") == 8 for line in lines)
    colours = [re.findall(r"38;2;([\d;]+);48;2;([\d;]+)m", line)[0] for line in lines]
    assert colours == [("255;0;0", "255;0;0")] * 2 + [("0;0;255", "0;0;255")] * 2


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    """Whether that is there yet or not; nothing is left beside either."""
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    if there:
        (tmp_path / "far" / "a.png").write_bytes(b"before")
    link = tmp_path / "near" / "b.png"
    link.symlink_to(Path("..") / "far" / "a.png")
    assert write_bytes(link, b"after") == link
    assert link.is_symlink()
    assert (tmp_path / "far" / "a.png").read_bytes() == b"after"
    assert [path.name for path in (tmp_path / "near").iterdir()] == ["b.png"]
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["a.png"]
