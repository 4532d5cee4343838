"""A picture's file says how it was made, and what is read back is checked."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewstep.engine.record import Record, png_bytes, read_record, write_png
from fewstep.engine.request import RequestError

RECORD = Record("a red apple", 7, 4, 64, 64, "emoji", "0123456789ab", 0.0, "0.1.0", "eager", "cpu", 2, batch=8, row=3)
SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # how AUTOMATIC1111 reads its own text


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def png_with(tmp_path: Path, **texts: str) -> Path:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    picture().save(tmp_path / "some.png", pnginfo=info)
    return tmp_path / "some.png"


def record_with(**changes: Any) -> str:
    return json.dumps({**vars(RECORD), **changes})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_png(picture(), RECORD, tmp_path / "a.png")
    assert read_record(path) == RECORD
    with Image.open(path) as opened:
        assert opened.convert("RGB").tobytes() == picture().tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_prompt_survives(tmp_path_factory: pytest.TempPathFactory, prompt: str) -> None:
    record = Record(**{**vars(RECORD), "prompt": prompt})
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(png_bytes(picture(), record))
    assert read_record(path) == record


def test_the_same_picture_gives_the_same_bytes() -> None:
    assert png_bytes(picture(), RECORD) == png_bytes(picture(), RECORD)


@pytest.mark.parametrize("prompt", ["a red apple", 'say "hi", now: then', "two\nlines", "cat\nSteps: 99, Sampler: Fake, Seed: 1"])
@pytest.mark.parametrize("model", ["emoji", 'my, "model": v2'])
def test_other_tools_read_the_settings_from_the_last_line(prompt: str, model: str) -> None:
    *lines, last = Record(**{**vars(RECORD), "prompt": prompt, "model": model}).parameters().split("\n")
    settings = {key: json.loads(value) if value.startswith('"') else value for key, value in SETTING.findall(last)}
    assert "\n".join(lines) == prompt
    assert (settings["Steps"], settings["Seed"], settings["Size"], settings["Model hash"]) == ("4", "7", "64x64", "0123456789ab")
    assert settings["Model"] == model


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_png(picture(), RECORD, tmp_path / "a.png")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_png(picture(), Record(**{**vars(RECORD), "seed": 8}), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = b"\x89PNG\r\n\x1a\n"
SMALL = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
HUGE = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
BOMB = chunk(b"zTXt", b"fewstep\0\0" + zlib.compress(b" " * 50_000_000))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no PNG"),
        (b"GIF89a" + bytes(100), "no PNG"),
        (HEADER + SMALL, "no record|cannot be read"),
        (HEADER + SMALL[:20], "no record|cannot be read|damaged"),
        (HEADER + HUGE + chunk(b"IDAT", b""), "100000x100000"),
        (HEADER + SMALL + BOMB + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "damaged|no record"),
    ],
)
def test_hostile_files_are_refused_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=reason) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(RequestError, match="cannot be read"):
            read_record(path)


def test_a_picture_of_another_tool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no record"):
        read_record(png_with(tmp_path, parameters="a cat\nSteps: 4"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        "{}",
        "[" * 50_000,
        record_with(extra=1),
        record_with(seed=-1),
        record_with(seed="7"),
        record_with(seed=True),
        record_with(prompt=None),
        record_with(prompt="x" * 5000),
        record_with(batch=10**6),
        record_with(batch=2, row=2),
        record_with(threads=0),
        record_with(threads=10**9),
        record_with(guidance_scale="high"),
    ],
)
def test_records_that_cannot_be_ours_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match="its record cannot be used") as caught:
        read_record(png_with(tmp_path, fewstep=text))
    assert "\n" not in str(caught.value)


def test_a_record_longer_than_any_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no record"):
        read_record(png_with(tmp_path, fewstep=" " * 100_000))
