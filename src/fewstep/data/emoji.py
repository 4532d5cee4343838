"""Scenes of emoji with captions: what the embedded model learns from.

A scene is a function of (seed, index): ``World.scene`` draws what is in it, ``World.render`` paints it, ``World.caption`` says it.
Nothing is stored, so the data is unlimited, and resuming a run needs only the index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image

from fewstep.data import places
from fewstep.data.subjects import Subject

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 50, 50),
    "green": (60, 170, 80),
    "blue": (50, 90, 210),
    "yellow": (250, 215, 60),
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "purple": (140, 70, 180),
    "orange": (245, 140, 40),
    "pink": (250, 160, 190),
    "gray": (150, 150, 150),
}
PAINTS = ("red", "green", "blue", "yellow", "purple", "orange", "pink")  # colours a subject can be repainted in
SIZES = {"small": 0.44, "": 0.7, "large": 0.94}  # subject's side as a share of √(width·height): the same in every bucket
MOST = 0.97  # largest side as a share of the shorter one
SIDES = ("to the left of", "to the right of", "above", "below")


@dataclass(frozen=True)
class Dials:
    """How wide the world of scenes is. Shares are probabilities; the tighter, the less there is to learn."""

    keyword: float = 0.25  # the subject is called by one of its keywords instead of its name
    sized: float = 0.1  # the subject is small or large, and the caption says so
    place: float = 0.0  # a procedural place behind the subject instead of a flat colour
    repaint: float = 0.0  # the subject is repainted in a colour that the caption names
    pair: float = 0.0  # two subjects side by side or one above the other
    bare: float = 0.05  # the caption names no background
    flip: float = 0.0  # drawn as in a mirror
    turn: float = 0.0  # largest turn in degrees
    shift: float = 0.0  # largest offset from the centre, as a share of the shorter side
    held_out: float = 0.08  # share of (subject, background, repaint) combinations that training never sees

    @classmethod
    def of(cls, settings: Sequence[str], dials: Dials) -> Dials:
        """``dials``, but for ``settings`` such as "place=0.5". Raises ValueError on what is none."""
        known, values = [field.name for field in fields(cls)], {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in known:
                raise ValueError(f"{setting!r}: a dial is one of {', '.join(known)}; give one as place=0.5")
            try:
                values[name] = float(value)
            except ValueError:
                raise ValueError(f"{setting!r}: {value!r} is no number") from None
        return replace(dials, **values)

    def __post_init__(self) -> None:
        for name in ("keyword", "sized", "place", "repaint", "pair", "bare", "flip", "shift", "held_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"dials.{name} = {getattr(self, name)}: give a share between 0 and 1")


TAUGHT = Dials(sized=0.2, place=0.3, repaint=0.15, pair=0.03)  # what the embedded model has seen, as recipes/emoji.toml has it


@dataclass(frozen=True)
class Scene:
    """What one picture shows. ``background`` is a colour or a place, ``paint`` a colour or empty; ``other`` is the second subject's index."""

    subject: int
    background: str
    size: str = ""
    paint: str = ""
    other: int | None = None
    relation: str = ""
    flip: bool = False
    turn: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    texture: int = 0  # seed of the place's own randomness


@dataclass(frozen=True)
class World:
    """The subjects, the dials and the seed: everything a scene depends on besides its index."""

    subjects: tuple[Subject, ...]
    dials: Dials = Dials()
    seed: int = 0

    def rng(self, index: int) -> np.random.Generator:
        """The one source of randomness of scene ``index``."""
        return np.random.default_rng((self.seed, index))

    def scene(self, rng: np.random.Generator, held_out: bool = False) -> Scene:
        """A scene from the training combinations or, with ``held_out``, from those that training never sees.

        Raises ValueError if there is none.
        """
        for _ in range(1000):
            scene = self._draw(rng)
            if self.is_held_out(scene) == held_out:
                return scene
        kind = "held out" if held_out else "left to train on"
        raise ValueError(f"dials.held_out = {self.dials.held_out}: no combination is {kind}; choose a share between 0 and 1")

    def is_held_out(self, scene: Scene) -> bool:
        """Whether training never shows this (subject, background, paint), or that of the second subject. Depends on names alone, not on seed or order."""
        shown = [(scene.subject, scene.paint), *([(scene.other, "")] if scene.other is not None else [])]
        return any(self._is_kept_from_training(subject, scene.background, paint) for subject, paint in shown)

    def _is_kept_from_training(self, subject: int, background: str, paint: str) -> bool:
        key = "|".join((self.subjects[subject].name, background, paint))
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") < self.dials.held_out * 2**32

    def _draw(self, rng: np.random.Generator) -> Scene:
        dials = self.dials
        subject = int(rng.integers(len(self.subjects)))
        background = str(rng.choice(list(places.PLACES) if rng.random() < dials.place else list(COLOURS)))
        sized, painted, paired = rng.random() < dials.sized, rng.random() < dials.repaint, rng.random() < dials.pair
        other = int(rng.integers(len(self.subjects)))
        return Scene(
            subject=subject,
            background=background,
            size=str(rng.choice(["small", "large"])) if sized and not paired else "",
            paint=str(rng.choice([paint for paint in PAINTS if paint != background])) if painted and not self._coloured(subject) else "",
            other=other if paired and other != subject else None,
            relation=str(rng.choice(SIDES)),
            flip=bool(rng.random() < dials.flip),
            turn=float(rng.uniform(-dials.turn, dials.turn)),
            shift=(float(rng.uniform(-dials.shift, dials.shift)), float(rng.uniform(-dials.shift, dials.shift))),
            texture=int(rng.integers(2**31)),
        )

    def _coloured(self, subject: int) -> bool:
        """A "red apple" is not repainted: "a green red apple" teaches nothing."""
        return any(word in COLOURS for word in self.subjects[subject].name.lower().split())

    def keywords(self, subject: int) -> tuple[str, ...]:
        """Other words that may stand for the subject: its keywords, save those that are another subject's own name."""
        names = {other.name.lower() for other in self.subjects}
        return tuple(word for word in self.subjects[subject].keywords if word not in names and word not in COLOURS)

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """What a person would type for this scene, in one of a few wordings."""
        noun = self.subjects[scene.subject].name
        words = self.keywords(scene.subject)
        if words and rng.random() < self.dials.keyword:
            noun = str(rng.choice(words))
        phrase = article(" ".join(part for part in (scene.size, scene.paint, noun) if part))
        if scene.other is not None:
            phrase = f"{phrase} {scene.relation} {article(self.subjects[scene.other].name)}"
        style = rng.random()
        if style < self.dials.bare:
            return phrase
        if scene.background in places.PLACES:
            return f"{phrase} {places.PLACES[scene.background]}"
        if style < 0.75:
            return f"{phrase} on {article(scene.background)} background"
        return f"{phrase}, {scene.background} background" if style < 0.88 else f"{phrase} on {scene.background}"

    def render(self, scene: Scene, width: int, height: int) -> np.ndarray:
        """Paint the scene: uint8 [height, width, 3]."""
        if scene.background in COLOURS:
            canvas = np.broadcast_to(np.array(COLOURS[scene.background], np.float32) / 255, (height, width, 3)).copy()
        else:
            canvas = places.paint(scene.background, width, height, np.random.default_rng(scene.texture))
        shadow = scene.background not in COLOURS
        foot = places.ground_line(scene.background) if shadow else None
        for subject, paint, side, x, y in self._layout(scene, width, height, foot):
            sprite = _sprite(self.subjects[subject], max(8, round(side)), paint, scene.flip, scene.turn)
            if shadow:
                _shade(canvas, x + side / 2, y + side * 0.97, side)
            _paste(canvas, sprite, round(x), round(y))
        return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)

    def _layout(self, scene: Scene, width: int, height: int, foot: float | None) -> list[tuple[int, str, float, float, float]]:
        """(subject, paint, side, left, top) of each subject, in pixels."""
        shorter = min(width, height)
        dx, dy = scene.shift[0] * shorter, scene.shift[1] * shorter
        if scene.other is None:
            side = min(SIZES[scene.size] * (width * height) ** 0.5, MOST * shorter) * (1 if foot is None else 0.9)
            top = (height - side) / 2 if foot is None else min(height * foot - side * 0.97, height - side)
            return [(scene.subject, scene.paint, side, (width - side) / 2 + dx, top + dy)]
        across = scene.relation in SIDES[:2]
        side = 0.48 * (min(width, 2 * height) if across else min(height, 2 * width))
        gap = side * 0.52
        first = -gap if scene.relation in ("to the left of", "above") else gap
        centres = [(first, 0.0), (-first, 0.0)] if across else [(0.0, first), (0.0, -first)]
        pairs = [(scene.subject, scene.paint), (scene.other, "")]
        return [(s, p, side, (width - side) / 2 + cx + dx, (height - side) / 2 + cy + dy) for (s, p), (cx, cy) in zip(pairs, centres, strict=True)]


def article(phrase: str) -> str:
    """``phrase`` with "a" or "an" before it."""
    return f"an {phrase}" if phrase[:1].lower() in "aeiou" and not phrase.lower().startswith(("uni", "one", "euro")) else f"a {phrase}"


_drawings: dict[int, tuple[Subject, np.ndarray]] = {}  # by identity; the subject is kept with it, or its id could pass to another


def _sprite(subject: Subject, side: int, paint: str, flip: bool, turn: float) -> np.ndarray:
    """The subject's drawing at ``side`` pixels, premultiplied RGBA, float32 [side, side, 4]."""
    if id(subject) not in _drawings:
        _drawings[id(subject)] = subject, (subject.draw() * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(_drawings[id(subject)][1], "RGBA")
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if turn:
        picture = picture.rotate(turn, Image.Resampling.BILINEAR)
    # Pillow would premultiply "RGBA" a second time: the channels go through as CMYK, which it leaves alone. HAMMING does not overshoot.
    sprite = np.asarray(Image.frombytes("CMYK", picture.size, picture.tobytes()).resize((side, side), Image.Resampling.HAMMING), dtype=np.float32) / 255
    return repainted(sprite, COLOURS[paint]) if paint else sprite


def repainted(sprite: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The drawing in shades of one colour: black stays black, white stays white, what lies between takes the hue."""
    alpha = np.maximum(sprite[..., 3:], 1e-6)
    grey = (sprite[..., :3] / alpha) @ np.array([0.299, 0.587, 0.114], np.float32)
    hue = np.array(colour, np.float32) / 255
    middle = float(hue @ np.array([0.299, 0.587, 0.114], np.float32))
    dark, light = np.clip(grey / max(middle, 1e-3), 0, 1)[..., None], np.clip((grey - middle) / max(1 - middle, 1e-3), 0, 1)[..., None]
    return np.concatenate([(hue * dark * (1 - light) + light) * sprite[..., 3:], sprite[..., 3:]], axis=-1)


def _paste(canvas: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Composite in place; what falls outside the canvas is cut off."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + sprite.shape[1], width), min(y + sprite.shape[0], height)
    part = sprite[y0 - y : y1 - y, x0 - x : x1 - x]
    canvas[y0:y1, x0:x1] = part[..., :3] + canvas[y0:y1, x0:x1] * (1 - part[..., 3:])


def _shade(canvas: np.ndarray, x: float, y: float, side: float) -> None:
    """A soft shadow on the ground below a subject, in place."""
    height, width = canvas.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    distance = ((columns - x) / (0.42 * side)) ** 2 + ((rows - y) / (0.08 * side)) ** 2
    canvas *= (1 - 0.4 * np.exp(-(distance**2)))[..., None].astype(np.float32)
