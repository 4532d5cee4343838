"""What is asked for and what comes back: Request, Limits, Frame, Picture. Loads no torch."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.engine.control import Control, Controls
    from fewstep.engine.record import Record
    from fewstep.engine.source import Source
    from fewstep.models.chunks import Words
    from fewstep.models.stack import Stack

Loras = Sequence[tuple[str | Path, float]]  # (a LoRA's file, its weight)
Variations = Sequence[tuple[int, float]]  # (a seed, how far to go to its noise from where one is, 0 to 1)
ASPECTS = {"16:9": (16, 9), "4:3": (4, 3), "1:1": (1, 1), "3:4": (3, 4), "9:16": (9, 16)}
BACKENDS = ("auto", "onnxruntime", "openvino", "native", "compiled", "eager", "offloaded")
PRECISIONS = ("auto", "float32", "float16", "bfloat16", "int8", "float8")  # the last two are of a UNet's large layers
DECODERS = ("full", "tiny")
TILED = "tiled"  # the full decoder, in overlapping parts of the picture
HINTS = ("given", "canny", "lineart", "scribble", "depth")  # what an image can be made into for a ControlNet to read
TILES = ("x", "y", "xy")  # ways to wrap around
MOST_BATCH = 8  # pictures made at once
SMALLEST = 64  # pixels a side
SEEDS = 2**63
RANDOM_SEEDS = 2**32
LONGEST_PROMPT = 4000  # characters
MOST_PIXELS = 4096 * 4096  # of a picture that is given
BLEND_WEIGHT, STRENGTH = 0.5, 0.5  # where a request has a second prompt, or an image without a mask, and does not say
TEACHER_STEPS = range(16, 1001)  # a teacher takes any number, but below 16 its pictures are not worth having


class RequestError(ValueError):
    """A request that cannot be met; the message is one sentence: what was given, and what to do."""


@dataclass(frozen=True)
class Request:
    """One picture to make. What is left at None is chosen: a random seed, the engine's steps, the model's own size or the image's."""

    prompt: str
    seed: int | None = None
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    aspect: str | None = None
    blend: str | None = None  # a second prompt
    blend_weight: float | None = None  # its share, 0 to 1
    variation_seed: int | None = None
    variation: float | None = None  # how far from the seed's noise to the variation seed's, 0 to 1
    variations: Variations = ()  # further ones, each from where the one before it led
    image: Image | None = dataclasses.field(default=None, repr=False)  # to begin from
    strength: float | None = None  # how much of it is made anew, up to 1: the share of the steps that are run, or where the model can of the noise
    mask: Image | None = dataclasses.field(default=None, repr=False)  # as large as the image: white is repainted, black kept to the bit, grey mixed
    outpaint: tuple[int, int, int, int] | None = None  # pixels to add around the image: left, top, right, bottom
    transparent: bool = False  # cut the flat background out
    tile: str | None = None  # "x", "y" or "xy": along these its opposite sides fit together without a seam
    prompt_2: str | None = None  # what the second text encoder reads, where it is not the prompt
    negative: str | None = None  # what to lead the picture away from
    guidance_scale: float | None = None  # of classifier-free guidance; 1 or less is none, and more takes twice the time
    nag_scale: float | None = None  # of normalized attention guidance, by which a negative prompt works without the other
    literal: bool = False  # no character of a prompt means more than itself, and what exceeds the encoders' length is cut off
    original_size: tuple[int, int] | None = None  # (width, height) that the model is told the picture had before it was scaled
    crop: tuple[int, int] | None = None  # (left, top) pixels that it is told were cut off
    target_size: tuple[int, int] | None = None  # (width, height) that it is told is wanted
    loras: Loras | None = None  # (file, weight) of each over the weights; None: the engine's own
    control: Sequence[Control] = ()  # images that the composition follows, each read by a ControlNet

    def __post_init__(self) -> None:
        """Checks what needs no model. Raises RequestError."""
        from fewstep.engine.checks import check, plain

        for name, number in plain(self).items():
            object.__setattr__(self, name, number)
        check(self)

    def seed_or_random(self) -> int:
        """The seed, or a random one that is short enough to type again."""
        return secrets.randbelow(RANDOM_SEEDS) if self.seed is None else self.seed


@dataclass(frozen=True)
class Settled:
    """A request with every choice made and found good for one model. What changes nothing is left out, such as a blend of weight 0."""

    prompt: str
    seed: int
    steps: int
    width: int
    height: int
    start: int = 0  # evaluations that are passed over, for it begins from ``source`` at the noise level of the next one
    entry: int | None = None  # the timestep of that level, where it is none of the weights' own
    blend: str | None = None
    blend_weight: float | None = None
    variation_seed: int | None = None
    variation: float | None = None
    variations: tuple[tuple[int, float], ...] = ()
    source: Source | None = None
    transparent: bool = False
    tile: str | None = None
    template: str | None = None  # what the prompt was drawn from, where it has choices
    prompt_2: str | None = None
    negative: str | None = None
    guidance_scale: float | None = None  # None: the weights' own
    nag_scale: float | None = None  # None: as much as is usual, where there is no other guidance
    literal: bool = False
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    chunks: tuple[int, int] = (1, 0)  # of tokens, in the prompts and in the negative one
    loras: Stack = ()
    control: Controls = ()

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """Pictures of one kind can be made together."""
        begun = self.steps, self.start, self.entry
        return self.width, self.height, self.tile, *begun, self.chunks, self.guidance_scale, self.nag_scale, self.loras, self.guides

    @property
    def guides(self) -> tuple[Hashable, ...]:
        """Which ControlNets read its hints, how strongly and when."""
        return tuple(hint.group for hint in self.control)

    @property
    def strength(self) -> float:
        """How much of an image is made anew, up to 1, where nothing but noise is begun from: the share of the steps that are run, or of the noise levels."""
        if self.entry is None:
            return (self.steps - self.start) / self.steps
        from fewstep.stamp import strength_of

        return strength_of(self.entry)


@dataclass(frozen=True)
class Limits:
    """What one loaded model can do."""

    name: str
    factor: int  # pixels a side of one latent position
    native: int  # pixels a side of the pictures it was trained on
    students: tuple[int, ...]  # step counts of its few-step weights, ascending
    teacher: bool  # whether the undistilled model is there too
    default_steps: int
    stride: int = 1  # latent positions that the sides of a tile are multiples of: those that the UNet makes one of
    anywhere: frozenset[int] = frozenset()  # the step counts of students that can begin from an image at any noise level
    no_images: str = ""  # why it cannot begin from an image, and what to do about it
    count: Callable[[Words], int] = dataclasses.field(default=lambda words: 1, compare=False, repr=False)  # chunks of tokens that a text takes
    stack: Callable[[Loras | None, int], Stack] = dataclasses.field(default=lambda loras, steps: (), compare=False, repr=False)  # LoRAs for steps, found
    guides: Callable[[Sequence[Control], int, int, int], Controls] | None = dataclasses.field(default=None, compare=False, repr=False)  # settle_controls
    prepare: Callable[..., Source] | None = dataclasses.field(default=None, compare=False, repr=False)  # that of fewstep.engine.source, or one that remembers

    @property
    def levels(self) -> int:
        """Of its UNet."""
        return self.stride.bit_length()

    def settle(self, request: Request) -> Settled:
        """Fill in what ``request`` leaves open. Raises RequestError on what this model does not have: a size, a step count, a strength."""
        from fewstep.engine.texts import settle_texts
        from fewstep.engine.variations import settle_variations

        if not isinstance(request, Request):
            raise RequestError(f"{request!r:.60} is no request: give Request(prompt), or many of them to generate_many")
        steps = self.default_steps if request.steps is None else request.steps
        self.check_steps(steps)
        width, height = self.frame(request)
        self.check_size(width, height, request.tile)
        seed = request.seed_or_random()
        beginning = self._beginning(request, steps, width, height)
        return Settled(
            seed=seed,
            steps=steps,
            width=width,
            height=height,
            transparent=request.transparent,
            tile=request.tile,
            loras=self.stack(request.loras, steps),
            **settle_texts(request, seed, self.count),
            **settle_variations(request),
            control=self._control(request.control, width, height, steps - beginning.get("start", 0)),
            **beginning,
        )

    def _control(self, control: Sequence[Control], width: int, height: int, evaluations: int) -> Controls:
        if not control:
            return ()
        if self.guides is None:
            raise RequestError(f"{self.name} follows no control images here: leave them out")
        return self.guides(control, width, height, evaluations)

    def _beginning(self, request: Request, steps: int, width: int, height: int) -> dict[str, Any]:
        """Which step an image is begun from, and the image; nothing where nothing of it would be left."""
        if request.image is None:
            return {}
        if self.no_images:
            raise RequestError(self.no_images)
        painted = request.mask is not None or request.outpaint is not None
        strength = request.strength if request.strength is not None else 1.0 if painted else STRENGTH
        from fewstep.engine.source import prepare
        from fewstep.stamp import entrance

        prepare = self.prepare or prepare
        if steps in self.anywhere and (found := entrance(strength, steps)):
            source = prepare(request.image, request.mask, request.outpaint, width, height, self.factor)
            return {"start": found[0], "entry": found[1], "source": source}
        if steps == 1 and strength < 1 and not painted and steps not in self.anywhere:
            more = [count for count in self.students if count > 1]
            instead = f"use --steps {self.default_steps if self.default_steps > 1 else more[0]}" if more or self.teacher else "use a model for more steps"
            raise RequestError(f"strength = {strength:g}: 1 step leaves nothing of an image, and N steps have the strengths 1/N, 2/N to 1: {instead}")
        start = steps - max(1, round(strength * steps))
        if start == 0 and not painted:
            return {}
        return {"start": start, "source": prepare(request.image, request.mask, request.outpaint, width, height, self.factor)}

    def frame(self, request: Request) -> tuple[int, int]:
        """(width, height) of the picture: what ``request`` says, else the image's size or the nearest to it, else the model's own; one side alone
        has the other in the image's proportion. Without an image, a control image's.
        """
        if request.aspect is not None:
            return self.size_of(request.aspect, request.tile)
        image = request.control[0].image if request.image is None and request.control else request.image
        if image is None or None not in (request.width, request.height):
            return tuple(self.native if side is None else side for side in (request.width, request.height))  # type: ignore[return-value]
        left, top, right, bottom = request.outpaint or (0, 0, 0, 0)
        if request.width is not None:
            return request.width, self._scaled(image.height / image.width * (request.width - left - right), request.tile) + top + bottom
        if request.height is not None:
            return self._scaled(image.width / image.height * (request.height - top - bottom), request.tile) + left + right, request.height
        width, height = self.nearest(*image.size, request.tile)
        return width + left + right, height + top + bottom

    def _scaled(self, side: float, tile: str | None) -> int:
        """The nearest to ``side`` that the model makes."""
        unit, least, most = self._range(tile)
        return min(max(round(side / unit) * unit, least), most)

    def nearest(self, width: int, height: int, tile: str | None = None) -> tuple[int, int]:
        """This size where the model makes it, else one of about its native area and this shape."""
        unit, least, most = self._range(tile)
        if all(side % unit == 0 and least <= side <= most for side in (width, height)):
            return width, height
        return tuple(min(max(side, least), most) for side in self._shaped(width / height, tile))  # type: ignore[return-value]

    def has(self) -> list[str]:
        """What there are weights for, in words."""
        students = [f"weights for {listed(self.students)} step{'s' * (self.students != (1,))}"] if self.students else []
        return students + [f"its teacher for {TEACHER_STEPS.start} to {TEACHER_STEPS.stop - 1} steps"] * self.teacher

    def check_steps(self, steps: int) -> None:
        """Raises RequestError, naming the step counts there are, unless ``steps`` is one of them."""
        if steps in self.students or (self.teacher and steps in TEACHER_STEPS):
            return
        possible = [*self.students, *[min(max(steps, TEACHER_STEPS.start), TEACHER_STEPS.stop - 1)] * self.teacher]
        nearest = min(possible, key=lambda have: abs(have - steps))
        raise RequestError(f"{steps} steps were asked for, and {self.name} has {' and '.join(self.has())}: use --steps {nearest}")

    def check_size(self, width: int, height: int, tile: str | None = None) -> None:
        """Raises RequestError, naming the nearest size that works, unless both sides are multiples of the factor, or of a tile's, within the limits."""
        unit, least, most = self._range(tile)
        nearest = [self._scaled(side, tile) for side in (width, height)]
        if [width, height] == nearest:
            return
        what, rule = "tiles" if tile else "pictures", f"multiples of {unit} from {least} to {most}"
        raise RequestError(f"size {width}x{height}: {self.name} makes {what} whose sides are {rule}; the nearest is {nearest[0]}x{nearest[1]}")

    def size_of(self, aspect: str, tile: str | None = None) -> tuple[int, int]:
        """(width, height) of about the native area in this aspect, on the grid that the model's training sizes lie on."""
        across, down = ASPECTS[aspect]
        return self._shaped(across / down, tile)

    def _range(self, tile: str | None) -> tuple[int, int, int]:
        """What sides are multiples of, and the shortest and the longest: a network that halves an odd number of columns does not wrap around."""
        unit = self.factor * self.stride if tile else self.factor
        return unit, -(-SMALLEST // unit) * unit, 2 * self.native // unit * unit

    def _shaped(self, ratio: float, tile: str | None = None) -> tuple[int, int]:
        unit = max(self._range(tile)[0], self.native // 16)
        ideal = (self.native * ratio**0.5, self.native / ratio**0.5)
        return round(ideal[0] / unit) * unit, round(ideal[1] / unit) * unit


@dataclass(frozen=True)
class Picture:
    """A finished picture. ``timings`` are milliseconds of this picture's share of its batch: text, encode of an image, denoise, decode."""

    image: Image
    seed: int
    steps: int
    width: int
    height: int
    model: str
    timings: dict[str, float]
    record: Record

    @property
    def strength(self) -> float:
        """The share of the steps that were run: less than 1 where it was begun from an image."""
        return 1.0 if self.record.strength is None else self.record.strength

    def save(self, path: str | Path, replace: bool = True) -> Path:
        """Write a picture that says how it was made, whole or not at all: a PNG, WebP or JPEG, as its name ends. Returns its path.

        Raises RequestError on a name that ends otherwise, OSError where it cannot be written, and FileExistsError, unless it is to ``replace``
        that, where there is a file.
        """
        from fewstep.engine.files import write_picture

        return write_picture(self.image, self.record, Path(path), replace)


@dataclass(frozen=True)
class Frame:
    """Where a picture stands after ``step`` network evaluations. ``picture`` is None until the last."""

    step: int
    steps: int
    decode: Callable[[], Any] = dataclasses.field(repr=False)
    picture: Picture | None = None

    @cached_property
    def image(self) -> Image:
        """What the picture is heading for, decoded when it is asked for; after the last step the picture itself."""
        image: Image = self.picture.image if self.picture else self.decode()
        return image


def seeds_from(first: int, count: int) -> list[int]:
    """``count`` seeds that count up from ``first``; after the largest comes 0."""
    return [(first + i) % SEEDS for i in range(count)]


def listed(values: tuple[Any, ...] | list[Any]) -> str:
    """ "1, 2, 4 and 8"."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
