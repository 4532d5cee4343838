"""The three kinds of source give the same subjects, and what is none of them is refused with what to do."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.data import subjects
from fewstep.data.subjects import ICONIC, SIDE, Subject, choose, read_subjects

DEBIAN_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
DEBIAN = (DEBIAN_FONT, subjects.EMOJI_TEST, subjects.ANNOTATIONS)

EMOJI_TEST = """# emoji-test.txt
# group: Smileys & Emotion
# subgroup: emotion
2764 FE0F                                              ; fully-qualified     # ❤️ E0.6 red heart
2764                                                   ; unqualified         # ❤ E0.6 red heart
# group: People & Body
1F44B                                                  ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FB                                            ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
# group: Component
1F3FB                                                  ; component           # 🏻 E1.0 light skin tone
# group: Food & Drink
1F34E                                                  ; fully-qualified     # 🍎 E0.6 red apple
# group: Flags
1F3C1                                                  ; fully-qualified     # 🏁 E0.6 chequered flag
"""
ANNOTATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<ldml><annotations>
<annotation cp="❤">heart | Red Heart | love</annotation><annotation cp="❤" type="tts">red heart</annotation>
<annotation cp="👋">hand | wave</annotation>
<annotation cp="🍎">apple | fruit | red</annotation><annotation cp="🍎" type="tts">red apple</annotation>
</annotations></ldml>
"""
FILES = {"red heart": "emoji_u2764.png", "waving hand": "emoji_u1f44b.png", "red apple": "emoji_u1f34e.png"}
INKS = {"red heart": (255, 0, 0), "waving hand": (255, 204, 0), "red apple": (200, 20, 30)}
GROUPS = {"red heart": "Smileys & Emotion", "waving hand": "People & Body", "red apple": "Food & Drink"}
KEYWORDS = {"red heart": ("heart", "love"), "waving hand": ("hand", "wave"), "red apple": ("apple", "fruit", "red")}


def draw(folder: Path) -> None:
    """One PNG a subject: a square of its colour on transparent green, 512 pixels a side."""
    folder.mkdir(parents=True)
    for name, file in FILES.items():
        picture = Image.new("RGBA", (512, 512), (0, 255, 0, 0))
        picture.paste((*INKS[name], 255), (101, 101, 411, 411))
        picture.save(folder / file)


def table(folder: Path) -> None:
    rows = ["file\tcharacter\tgroup\tname\tcldr_name\tkeywords"]
    rows += [f"{FILES[name]}\tx\t{GROUPS[name]}\t{name}\t{name}\t{' | '.join((name, *KEYWORDS[name]))}" for name in FILES]
    (folder / "noto-emoji.tsv").write_text("\n".join(rows) + "\n", encoding="utf8")


def loose(folder: Path) -> Path:
    draw(folder / "source")
    table(folder / "source")
    return folder / "source"


def packed(folder: Path) -> Path:
    draw(folder / "loose")
    (folder / "source").mkdir()
    table(folder / "source")
    with tarfile.open(folder / "source" / "noto-emoji-png512.tar", "w") as archive:
        for file in FILES.values():
            archive.add(folder / "loose" / file, file)
    return folder / "source"


def checkout(folder: Path) -> Path:
    draw(folder / "source" / "png" / "512")
    return folder / "source"


@pytest.fixture
def unicode_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small emoji-test.txt and annotations/en.xml in place of Debian's."""
    (tmp_path / "emoji-test.txt").write_text(EMOJI_TEST, encoding="utf8")
    (tmp_path / "en.xml").write_text(ANNOTATIONS, encoding="utf8")
    monkeypatch.setattr(subjects, "EMOJI_TEST", tmp_path / "emoji-test.txt")
    monkeypatch.setattr(subjects, "ANNOTATIONS", tmp_path / "en.xml")


@pytest.mark.usefixtures("unicode_files")
@pytest.mark.parametrize("layout", [loose, packed, checkout])
def test_every_layout_gives_the_same_subjects(tmp_path: Path, layout: object) -> None:
    found = read_subjects(layout(tmp_path))  # type: ignore[operator]
    assert [subject.name for subject in found] == list(FILES)  # no flags, no components, no skin tones, each once
    for subject in found:
        assert subject.group == GROUPS[subject.name] and subject.keywords == KEYWORDS[subject.name]
        drawing = subject.draw()
        assert drawing.shape == (SIDE, SIDE, 4) and drawing.dtype == np.float32 and drawing.min() >= 0 and drawing.max() <= 1
        np.testing.assert_allclose(drawing[SIDE // 2, SIDE // 2], [*(value / 255 for value in INKS[subject.name]), 1], atol=2e-3)
        assert not drawing[0, 0].any()
        if INKS[subject.name][1] == 0:  # premultiplied: the green of transparent pixels is nowhere, not even along the edge
            assert not drawing[..., 1].any()


@pytest.mark.usefixtures("unicode_files")
def test_missing_unicode_data_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "ANNOTATIONS", tmp_path / "none.xml")
    with pytest.raises(FileNotFoundError, match=r"none\.xml is missing.*apt-get install unicode-data unicode-cldr-core"):
        read_subjects(checkout(tmp_path))


@pytest.mark.parametrize("name", ["", "none", "file.txt"])
def test_what_is_no_source_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("no emoji")
    with pytest.raises(FileNotFoundError, match=r"holds no emoji: give a checkout of googlefonts/noto-emoji.*apt-get install"):
        read_subjects(tmp_path / name)


def named(*names: str, group: str = "Food & Drink") -> list[Subject]:
    return [Subject(name, group, (), lambda: np.zeros((SIDE, SIDE, 4), np.float32)) for name in names]


def test_iconic_subjects() -> None:
    assert len(ICONIC) == len(set(ICONIC)) == 120
    assert set(ICONIC[:64]) >= {"ghost", "robot", "alien", "red heart", "astronaut", "mermaid", "red apple", "fox", "rocket"}
    assert "ninja" in ICONIC


def test_the_dial_opens_in_order() -> None:
    source = named(*reversed(ICONIC), "something else")
    assert [subject.name for subject in choose(source, 64)] == list(ICONIC[:64])
    assert [subject.name for subject in choose(source, 120)] == list(ICONIC)
    assert choose(source, "all") == source


def test_groups_leave_out_clocks_and_long_names() -> None:
    source = named("tea", "one o’clock", "one-thirty", "bowl with spoon", "cup with a straw") + named("man", group="People & Body")
    assert [subject.name for subject in choose(source, "groups")] == ["tea", "bowl with spoon"]


@pytest.mark.parametrize(("dial", "says"), [(121, "only 120 iconic"), ("some", "'groups' or 'all'"), (200, "use 'groups' or 'all'")])
def test_a_setting_that_cannot_be_is_refused(dial: int | str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose(named(*ICONIC), dial)


@pytest.mark.parametrize("dial", [0, -3])
def test_no_subjects_at_all_is_refused(dial: int) -> None:
    with pytest.raises(ValueError, match=f"subjects = {dial}"):
        choose(named(*ICONIC), dial)


@pytest.mark.skipif(not all(path.is_file() for path in DEBIAN), reason="needs Debian's fonts-noto-color-emoji, unicode-data and unicode-cldr-core")
@pytest.mark.parametrize("source", [DEBIAN_FONT, DEBIAN_FONT.parent])
def test_debians_font(source: Path) -> None:
    found = read_subjects(source)
    chosen = {subject.name: subject for subject in choose(found, 120)}
    assert len(chosen) == 120 and len(found) > 1500 and 700 < len(choose(found, "groups")) < 900
    assert "fruit" in chosen["red apple"].keywords and chosen["red apple"].group == "Food & Drink"
    for name in ("red apple", "red heart", "fox"):
        drawing = chosen[name].draw()
        solid = drawing[..., 3] > 0.9
        assert 0.2 < solid.mean() < 0.95, name
        red, green, blue, _ = drawing[solid].mean(axis=0)
        assert red > green + 0.1 and red > blue + 0.1, name  # all three are red or orange
        rows, columns = np.nonzero(solid)
        assert abs(rows.mean() / SIDE - 0.5) < 0.08 and abs(columns.mean() / SIDE - 0.5) < 0.08, name
        assert rows.min() >= 0 and not drawing[0, :, 3].max() > 0.9 and not drawing[-1, :, 3].max() > 0.9, f"{name} is cut off"
