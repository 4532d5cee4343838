"""Emoji subjects: drawings with names, groups and keywords, read from one of four sources.

* a folder that holds ``noto-emoji.tsv`` and ``noto-emoji-png512.tar`` (or the unpacked PNG files);
* a checkout of googlefonts/noto-emoji (``png/512/emoji_u*.png``), named by Debian's unicode-data and unicode-cldr-core;
* Debian's ``NotoColorEmoji.ttf`` (136x128 bitmaps), named the same way;
* the word ``shapes``: a few plain figures drawn here, for trying a recipe out without any file.

No drawing ships with the package: a source is only needed to train.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
ANNOTATIONS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
BITMAP_SIZE = 109  # the only size at which NotoColorEmoji.ttf holds bitmaps
SHAPES = "shapes"  # the source that needs no file
BETWEEN = " | "  # keywords, as Unicode's annotations have it
SIDE = 320  # pixels a side that a drawing is kept at: the largest size a 256-pixel scene asks for, and some more

GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")

# Well-drawn and iconic, sorted by hand. The first 64 carry the first run of the whole chain; all 120 are the floor of the shipped model.
ICONIC = tuple(
    name.strip()
    for name in """
    red apple, banana, strawberry, watermelon, pizza, hamburger, doughnut, ice cream, birthday cake, carrot, avocado, pineapple,
    cat face, dog face, fox, lion, tiger face, panda, koala, frog, pig face, monkey face, rabbit face, bear, penguin, owl,
    octopus, turtle, butterfly, lady beetle, unicorn, tropical fish, whale, baby chick,
    rocket, automobile, bus, bicycle, sailboat, airplane, locomotive,
    sunflower, cactus, tulip, mushroom, palm tree, evergreen tree, rose,
    house, castle, rainbow, snowman, umbrella, sun with face,
    teddy bear, soccer ball, guitar, balloon,
    ghost, robot, alien, red heart, astronaut, mermaid,
    ninja, cat, dog, horse, elephant, duck, shark, crab, dolphin, snail, honeybee, hedgehog, T-Rex, flamingo, giraffe, mouse face,
    cherries, grapes, lemon, pear, peach, green apple, eggplant, broccoli, cookie, cupcake, hot dog, french fries,
    taco, sushi, hot beverage, cheese wedge,
    police car, fire engine, helicopter, tractor, motor scooter, flying saucer,
    cherry blossom, hibiscus, four leaf clover, maple leaf,
    light bulb, crown, gem stone, wrapped gift, key, hammer, alarm clock, skull, jack-o-lantern, Christmas tree,
    cloud, fire, star, crescent moon
    """.split(",")
)


@dataclass(frozen=True)
class Subject:
    """One emoji: what it is called and how it is drawn.

    ``name`` is the name in emoji-test.txt, ``keywords`` are CLDR's other words for it (its own name left out).
    ``draw()`` returns premultiplied RGBA, float32 [SIDE, SIDE, 4] in [0, 1].
    """

    name: str
    group: str
    keywords: tuple[str, ...]
    draw: Callable[[], np.ndarray]


def read_subjects(source: Path) -> list[Subject]:
    """Every emoji that ``source`` draws, in the source's order.

    Raises FileNotFoundError, with what to do, if the folder or file is none of the known kinds.
    """
    if str(source) == SHAPES:
        return shapes()
    source = Path(source)
    if (source / "noto-emoji.tsv").is_file():
        return _from_tsv(source)
    if (source / "png" / "512").is_dir():
        return _from_unicode(lambda file: _png(source / "png" / "512" / file))
    fonts = [source] if source.suffix == ".ttf" else sorted(source.glob("**/NotoColorEmoji.ttf")) if source.is_dir() else []
    if fonts and fonts[0].is_file():
        return _from_unicode(None, ImageFont.truetype(str(fonts[0]), BITMAP_SIZE))
    raise FileNotFoundError(
        f"{source} holds no emoji: give a checkout of googlefonts/noto-emoji, a folder with noto-emoji.tsv, or NotoColorEmoji.ttf "
        "(Debian: apt-get install fonts-noto-color-emoji unicode-data unicode-cldr-core)"
    )


def choose(subjects: list[Subject], dial: str | int) -> list[Subject]:
    """The subjects that a setting of the dial opens: 64, 120, ``"groups"`` (about 800) or ``"all"``.

    An integer n up to 120 takes the first n iconic subjects that the source has. Raises ValueError on any other setting.
    """
    by_name = {subject.name: subject for subject in subjects}
    if isinstance(dial, int) and dial < 1:
        raise ValueError(f"subjects = {dial}: give a number from 1 to {len(ICONIC)}, 'groups' or 'all'")
    if isinstance(dial, int) and all(subject.group == "Shapes" for subject in subjects):
        return subjects[:dial]
    if isinstance(dial, int):
        chosen = [by_name[name] for name in ICONIC if name in by_name][:dial]
        if len(chosen) < dial:
            raise ValueError(f"subjects = {dial}: only {len(chosen)} iconic subjects are in this source; use 'groups' or 'all' for more")
        return chosen
    if dial == "groups":
        return [s for s in subjects if s.group in GROUPS and len(s.name.split()) <= 3 and not re.search("o’clock|-thirty", s.name)]
    if dial == "all":
        return list(subjects)
    raise ValueError(f"subjects = {dial!r}: give a number up to {len(ICONIC)}, 'groups' or 'all'")


def shapes() -> list[Subject]:
    """Plain figures: enough to try a recipe out. Their names are emoji's where there is one."""

    def figure(colour: tuple[int, int, int], corners: int, turn: float) -> np.ndarray:
        canvas = Image.new("RGBA", (SIDE, SIDE))
        pen = ImageDraw.Draw(canvas)
        if corners:
            pen.regular_polygon((SIDE / 2, SIDE / 2, 0.45 * SIDE), corners, rotation=int(turn), fill=colour)
        else:
            pen.ellipse((0.08 * SIDE, 0.08 * SIDE, 0.92 * SIDE, 0.92 * SIDE), fill=colour)
        return _premultiplied(canvas)

    figures = {
        "red apple": ((200, 30, 40), 0, 0.0),
        "blue square": ((40, 70, 190), 4, 0.0),
        "yellow triangle": ((240, 200, 50), 3, 0.0),
        "green pentagon": ((40, 150, 70), 5, 0.0),
        "orange diamond": ((240, 130, 30), 4, 45.0),
        "purple hexagon": ((130, 60, 170), 6, 0.0),
    }
    return [subject_of(name, "Shapes", ["shape"], lambda drawing=drawing: figure(*drawing)) for name, drawing in figures.items()]  # type: ignore[misc]


def _from_tsv(folder: Path) -> list[Subject]:
    archive = folder / "noto-emoji-png512.tar"
    draw = _tar_reader(archive) if archive.is_file() else lambda file: _png(folder / file)
    with (folder / "noto-emoji.tsv").open(encoding="utf8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [subject_of(row["name"], row["group"], row["keywords"].split(BETWEEN), lambda file=row["file"]: draw(file)) for row in rows]  # type: ignore[misc]


def _from_unicode(draw_file: Callable[[str], np.ndarray] | None, font: ImageFont.FreeTypeFont | None = None) -> list[Subject]:
    for needed in (EMOJI_TEST, ANNOTATIONS):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} is missing: the names come from it (apt-get install unicode-data unicode-cldr-core)")
    keywords = {node.get("cp", ""): (node.text or "").split(BETWEEN) for node in ElementTree.parse(ANNOTATIONS).iter("annotation") if node.get("type") is None}
    subjects, group = [], ""
    for line in EMOJI_TEST.read_text(encoding="utf8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        match = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# (\S+) E[\d.]+ (.+)", line)
        if not match or group in ("Component", "Flags") or "skin tone" in match[3]:
            continue
        points = [point for point in match[1].split() if point != "FE0F"]
        character = "".join(chr(int(point, 16)) for point in points)
        file = "emoji_u" + "_".join(point.lower().zfill(4) for point in points) + ".png"
        draw = (lambda text=match[2]: _glyph(font, text)) if font else (lambda file=file: draw_file(file))  # type: ignore[misc]
        subjects.append(subject_of(match[3], group, keywords.get(character, []), draw))
    return subjects


def subject_of(name: str, group: str, keywords: list[str], draw: Callable[[], np.ndarray]) -> Subject:
    """A subject with its keywords in lower case, each once, without blanks and its own name."""
    kept = tuple(sorted({word.strip().lower() for word in keywords if word.strip()} - {name.lower()}))
    return Subject(name=name, group=group, keywords=kept, draw=draw)


def _tar_reader(archive: Path) -> Callable[[str], np.ndarray]:
    with tarfile.open(archive) as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar.getmembers()}

    def read(file: str) -> np.ndarray:
        offset, size = places[file]
        with archive.open("rb") as stream:
            stream.seek(offset)
            return _premultiplied(Image.open(io.BytesIO(stream.read(size)), formats=("PNG",)))

    return read


def _png(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as picture:
        return _premultiplied(picture)


def _glyph(font: ImageFont.FreeTypeFont | None, text: str) -> np.ndarray:
    canvas = Image.new("RGBA", (136, 136))
    ImageDraw.Draw(canvas).text((0, 4), text, font=font, embedded_color=True)
    return _premultiplied(canvas)


def _premultiplied(picture: Image.Image) -> np.ndarray:
    """Premultiply before resizing, or the colour of transparent pixels bleeds into the edges."""
    rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    channels = [Image.fromarray(rgba[..., c]).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for c in range(4)]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 1)
