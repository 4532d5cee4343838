"""A picture's file says how it was made, and what is read back is checked."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from fewstep.engine.files import FORMATS, format_of, picture_bytes, read_record, write_picture
from fewstep.engine.record import Record
from fewstep.engine.request import LONGEST_PROMPT, RequestError

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


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    path = write_picture(picture(), RECORD, tmp_path / f"a{FORMATS[kind].suffixes[-1].upper()}")
    assert read_record(path) == RECORD
    with Image.open(path) as opened:
        assert opened.format == kind.upper()
        assert opened.size == picture().size
        difference = np.abs(np.asarray(opened.convert("RGB"), dtype=int) - np.asarray(picture(), dtype=int))
        assert difference.max() <= (0 if kind == "png" else 8)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", FORMATS)
@given(prompt=st.text(st.characters(codec="utf-8"), max_size=200))
@example(prompt="\U0001f98a" * LONGEST_PROMPT)
@example(prompt="\1" * LONGEST_PROMPT)
def test_any_prompt_survives(tmp_path_factory: pytest.TempPathFactory, kind: str, prompt: str) -> None:
    record = Record(**{**vars(RECORD), "prompt": prompt})
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(picture_bytes(picture(), record, kind))
    assert read_record(path) == record


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_picture_gives_the_same_bytes(kind: str) -> None:
    assert picture_bytes(picture(), RECORD, kind) == picture_bytes(picture(), RECORD, kind)


def test_a_png_is_not_packed_for_long() -> None:
    """The second byte of a zlib stream tells how hard its maker tried: 0x01 is the least, 0x9c the default."""
    content = picture_bytes(picture(), RECORD)
    start = content.index(b"IDAT") + 4
    assert content[start : start + 2] == b"\x78\x01"


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "png"), ("a.WebP", "webp"), ("a.jpg", "jpeg"), ("a.JPEG", "jpeg"), ("a.gif", None), ("png", None), ("", None)]
)
def test_a_name_says_the_format(name: str, kind: str | None) -> None:
    assert format_of(Path(name)) == kind


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_a_name_of_no_format_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"ends in \.png, \.webp or \.jpg$"):
        write_picture(picture(), RECORD, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_other_tools_find_the_settings_in_the_comment(kind: str) -> None:
    """As AUTOMATIC1111 writes it and its kin read it: eight bytes that name the encoding, then UTF-16 in the byte order of the block."""
    record = Record(**{**vars(RECORD), "prompt": "žluťoučký 🦊"})
    with Image.open(io.BytesIO(picture_bytes(picture(), record, kind))) as opened:
        block = opened.info["exif"].removeprefix(b"Exif\0\0")
        comment = opened.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert block.startswith(b"MM\0*")
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be") == record.parameters()


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_record_survives_being_saved_again_by_pillow(tmp_path: Path, kind: str) -> None:
    with Image.open(io.BytesIO(picture_bytes(picture(), RECORD, kind))) as opened:
        opened.save(tmp_path / f"again.{kind}", exif=opened.getexif())
    assert read_record(tmp_path / f"again.{kind}") == RECORD


@pytest.mark.parametrize("prompt", ["a red apple", 'say "hi", now: then', "two\nlines", "cat\nSteps: 99, Sampler: Fake, Seed: 1"])
@pytest.mark.parametrize("model", ["emoji", 'my, "model": v2'])
def test_other_tools_read_the_settings_from_the_last_line(prompt: str, model: str) -> None:
    *lines, last = Record(**{**vars(RECORD), "prompt": prompt, "model": model}).parameters().split("\n")
    settings = {key: json.loads(value) if value.startswith('"') else value for key, value in SETTING.findall(last)}
    assert "\n".join(lines) == prompt
    assert (settings["Steps"], settings["Seed"], settings["Size"], settings["Model hash"]) == ("4", "7", "64x64", "0123456789ab")
    assert settings["Model"] == model


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_picture(picture(), RECORD, tmp_path / "a.png")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_picture(picture(), Record(**{**vars(RECORD), "seed": 8}), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_there_stays_if_it_is_not_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(38, "no links here")))
    path = write_picture(picture(), RECORD, tmp_path / "a.png", replace=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_picture(picture(), Record(**{**vars(RECORD), "seed": 8}), path, replace=False)
    assert path.read_bytes() == before and read_record(path) == RECORD
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("texts", "comment", "own"), [(1, True, True), (3, False, True), (5, False, False)])
def test_a_jpeg_leaves_out_what_it_has_no_room_for(texts: int, comment: bool, own: bool) -> None:
    long = dict.fromkeys(("prompt", "negative", "prompt_2", "blend", "template")[:texts], "\U0001f98a" * LONGEST_PROMPT)
    content = picture_bytes(picture(), Record(**{**vars(RECORD), **long}), "jpeg")
    with Image.open(io.BytesIO(content)) as opened:
        kept = opened.getexif().get_ifd(ExifTags.IFD.Exif)
        assert opened.size == (64, 64)
    assert (len(kept.get(ExifTags.Base.UserComment, b"")) > 8, ExifTags.Base.MakerNote in kept) == (comment, own)


def test_a_file_is_as_open_as_the_umask_has_it(tmp_path: Path) -> None:
    path, plain = write_picture(picture(), RECORD, tmp_path / "a.png"), tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = b"\x89PNG\r\n\x1a\n"
SMALL = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
HUGE = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
BOMB = chunk(b"zTXt", b"fewstep\0\0" + zlib.compress(b" " * 50_000_000))


def riff(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WEBP" + b"".join(chunks)


def canvas(side: int) -> bytes:
    """The first chunk of an extended WebP that says it has EXIF."""
    return b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + (side - 1).to_bytes(3, "little") * 2


def frame_header(side: int) -> bytes:
    return (
        b"\xff\xc0"
        + struct.pack(">HBHHB", 17, 8, side, side, 3)
        + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
        + b"\xff\xda\0\x0c"
        + bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])
    )


def several(kind: str) -> bytes:
    stream = io.BytesIO()
    picture().save(stream, kind, save_all=True, append_images=[Image.new("RGB", (64, 64))])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no PNG, WebP or JPEG"),
        (b"GIF89a" + bytes(100), "no PNG, WebP or JPEG"),
        (b"RIFF" + bytes(100), "no PNG, WebP or JPEG"),
        (riff(), "cannot be read|damaged"),
        (riff(canvas(64)), "cannot be read|damaged"),
        (riff(canvas(1 << 14)), "cannot be read|damaged|megapixels"),
        (riff(canvas(1 << 24)), "cannot be read|damaged|megapixels"),
        (several("WEBP"), "animation"),
        (several("PNG"), "animation"),
        (b"\xff\xd8\xff", "cannot be read|damaged"),
        (b"\xff\xd8" + frame_header(64), "no record"),
        (b"\xff\xd8" + frame_header(10_000), "10000x10000"),
        (b"\xff\xd8" + frame_header(65_535), "65535x65535"),
        (HEADER + SMALL, "cannot be read|damaged"),
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
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", FORMATS)
@settings(deadline=None)
@given(data=st.data())
def test_damage_is_refused_in_one_sentence_or_does_not_matter(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    """Bytes changed in the first 600, where headers and texts are, and perhaps an early end."""
    content = bytearray(picture_bytes(picture(), RECORD, kind))
    for place, value in data.draw(st.dictionaries(st.integers(0, 600), st.integers(0, 255), max_size=6)).items():
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.none())])
    with warnings.catch_warnings(action="error"):
        try:
            read_record(path)
        except RequestError as error:
            assert str(error).isprintable(), "one line"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.write(picture_bytes(picture(), RECORD, kind))
        stream.truncate(1 << 40)
    with pytest.raises(RequestError, match="has 1099512 MB: give a picture of at most 134 MB"):
        read_record(path)


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_note_of_another_maker_is_no_record(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.MakerNote: b"FUJIFILM\x0c\0\0\0"}
    for number, block in enumerate((exif.tobytes(), b"")):
        path = tmp_path / f"{number}.{kind}"
        picture().save(path, exif=block)
        with pytest.raises(RequestError, match="no record"):
            read_record(path)


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
        record_with(**{"one\ntwo\x1b[2J": 1}),
        record_with(model="x\x1b]0;owned\x07"),
        record_with(device="cpu\n"),
        record_with(loras=[["style", 1, "0\x9b31m"]]),
    ],
)
def test_records_that_cannot_be_ours_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match="its record cannot be used") as caught:
        read_record(png_with(tmp_path, fewstep=text))
    assert str(caught.value).isprintable()


def test_a_record_longer_than_any_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no record"):
        read_record(png_with(tmp_path, fewstep=" " * 100_000))


VARIED = Record(**{**vars(RECORD), "blend": "a green pear, ripe", "blend_weight": 0.25, "variation_seed": 9, "variation": 0.125, "transparent": True})
FURTHER = Record(**{**vars(VARIED), "variations": ((12, 0.5), (2**62, 1.0))})
BEGUN = Record(**{**vars(RECORD), "image": "a" * 64, "strength": 0.75, "mask": "b" * 64, "outpaint": "16,0,0,32"})


@pytest.mark.parametrize("record", [VARIED, FURTHER, BEGUN])
def test_what_a_picture_was_made_from_is_read_back(tmp_path: Path, record: Record) -> None:
    assert read_record(write_picture(picture(), record, tmp_path / "a.png")) == record


def test_a_picture_of_a_prompt_says_nothing_of_images(tmp_path: Path) -> None:
    """So files are as they were, and older versions read them."""
    with Image.open(write_picture(picture(), RECORD, tmp_path / "a.png")) as opened:
        assert not {"blend", "variation", "image", "mask", "strength", "transparent"} & set(json.loads(opened.info["fewstep"]))


def test_other_tools_read_strengths_by_their_names() -> None:
    read = [{key: value.strip('"') for key, value in SETTING.findall(record.parameters().split("\n")[-1])} for record in (RECORD, VARIED, BEGUN)]
    assert "Denoising strength" not in read[0] and "Variation seed" not in read[0]
    assert (read[1]["Variation seed"], read[1]["Variation seed strength"], read[1]["Blend"]) == ("9", "0.125", "a green pear, ripe")
    assert read[2]["Denoising strength"] == "0.75"
    further = SETTING.findall(FURTHER.parameters().split("\n")[-1])
    assert ("Variation seed", "9") in further and ("Further variations", f'"12:0.5; {2**62}:1.0"') in further
    assert list(read[2])[-1] == "Version"


@pytest.mark.parametrize(
    "changes",
    [
        {"image": 7},
        {"strength": 0.5},
        {"image": "a", "strength": 0},
        {"image": "a", "strength": 1.5},
        {"mask": "b"},
        {"transparent": 1},
        {"blend_weight": 0.5},
        {"variation": 2.0, "variation_seed": 1},
        {"variations": 0.5},
        {"variations": [9, 0.5]},
        {"variations": [[9, 0.5, 1]]},
        {"variations": [[9.0, 0.5]]},
        {"variations": [[9, 0.5]] * 33},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="its record cannot be used"):
        read_record(png_with(tmp_path, fewstep=record_with(**changes)))


def test_margins_that_were_tampered_with_are_a_sentence() -> None:
    record = Record(**{**vars(BEGUN), "outpaint": "1,2"})
    with pytest.raises(RequestError, match="outpaint '1,2': write it as"):
        record.again(picture(), picture().convert("L"))
