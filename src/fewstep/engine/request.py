"""What is asked for and what comes back: Request, Limits, Frame, Picture. Loads no torch."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.engine.record import Record

ASPECTS = {"16:9": (16, 9), "4:3": (4, 3), "1:1": (1, 1), "3:4": (3, 4), "9:16": (9, 16)}
BACKENDS = ("auto", "onnxruntime", "compiled", "eager")
DECODERS = ("full", "tiny")
MOST_BATCH = 8  # pictures made at once
SMALLEST = 64  # pixels a side
SEEDS = 2**63
RANDOM_SEEDS = 2**32
LONGEST_PROMPT = 4000  # characters
TEACHER_STEPS = range(16, 1001)  # a teacher takes any number, but below 16 its pictures are not worth having


class RequestError(ValueError):
    """A request that cannot be met; the message is one sentence: what was given, and what to do."""


@dataclass(frozen=True)
class Request:
    """One picture to make. What is left at None is chosen: a random seed, the engine's steps, the model's own size."""

    prompt: str
    seed: int | None = None
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    aspect: str | None = None

    def __post_init__(self) -> None:
        """Checks what needs no model. Raises RequestError."""
        if not isinstance(self.prompt, str):
            raise RequestError(f"the prompt is {self.prompt!r}: give a text")
        if len(self.prompt) > LONGEST_PROMPT:
            raise RequestError(f"the prompt has {len(self.prompt)} characters: give at most {LONGEST_PROMPT}")
        if any("\ud800" <= letter <= "\udfff" for letter in self.prompt):
            raise RequestError("the prompt is not valid Unicode: give it in UTF-8")
        for name in ("seed", "steps", "width", "height"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise RequestError(f"{name} = {value!r}: give a whole number")
        if self.seed is not None and not 0 <= self.seed < SEEDS:
            raise RequestError(f"seed = {self.seed}: give a whole number from 0 to 2^63 - 1")
        if self.aspect is not None and self.aspect not in ASPECTS:
            raise RequestError(f"aspect = {self.aspect!r}: give one of {', '.join(ASPECTS)}")
        if self.aspect is not None and (self.width, self.height) != (None, None):
            raise RequestError("a size and an aspect were both given: give one of them")

    def seed_or_random(self) -> int:
        """The seed, or a random one that is short enough to type again."""
        return secrets.randbelow(RANDOM_SEEDS) if self.seed is None else self.seed


@dataclass(frozen=True)
class Settled:
    """A request with every choice made and found good for one model."""

    prompt: str
    seed: int
    steps: int
    width: int
    height: int


@dataclass(frozen=True)
class Limits:
    """What one loaded model can do."""

    name: str
    factor: int  # pixels a side of one latent position
    native: int  # pixels a side of the pictures it was trained on
    students: tuple[int, ...]  # step counts of its few-step weights, ascending
    teacher: bool  # whether the undistilled model is there too
    default_steps: int

    def settle(self, request: Request) -> Settled:
        """Fill in what ``request`` leaves open. Raises RequestError on a size or a step count that this model does not have."""
        steps = self.default_steps if request.steps is None else request.steps
        self.check_steps(steps)
        if request.aspect is not None:
            width, height = self.size_of(request.aspect)
        else:
            width, height = (self.native if side is None else side for side in (request.width, request.height))
        self.check_size(width, height)
        return Settled(request.prompt, request.seed_or_random(), steps, width, height)

    def has(self) -> list[str]:
        """What there are weights for, in words."""
        students = [f"weights for {listed(self.students)} step{'s' * (self.students != (1,))}"] if self.students else []
        return students + [f"its teacher for {TEACHER_STEPS.start} to {TEACHER_STEPS.stop - 1} steps"] * self.teacher

    def check_steps(self, steps: int) -> None:
        """Raises RequestError, naming the step counts there are, unless ``steps`` is one of them."""
        if steps in self.students or (self.teacher and steps in TEACHER_STEPS):
            return
        nearest = min(self.students or (32,), key=lambda have: abs(have - steps))
        raise RequestError(f"{steps} steps were asked for, and {self.name} has {' and '.join(self.has())}: use --steps {nearest}")

    def check_size(self, width: int, height: int) -> None:
        """Raises RequestError, naming the nearest size that works, unless both sides are multiples of the factor within the limits."""
        least, most = -(-SMALLEST // self.factor) * self.factor, 2 * self.native // self.factor * self.factor
        nearest = [min(max(round(side / self.factor) * self.factor, least), most) for side in (width, height)]
        if [width, height] == nearest:
            return
        rule = f"multiples of {self.factor} from {least} to {most}"
        raise RequestError(f"size {width}x{height}: {self.name} makes pictures whose sides are {rule}; the nearest is {nearest[0]}x{nearest[1]}")

    def size_of(self, aspect: str) -> tuple[int, int]:
        """(width, height) of about the native area in this aspect, on the grid that the model's training sizes lie on."""
        across, down = ASPECTS[aspect]
        unit = max(self.factor, self.native // 16)
        ideal = (self.native * (across / down) ** 0.5, self.native * (down / across) ** 0.5)
        return round(ideal[0] / unit) * unit, round(ideal[1] / unit) * unit


@dataclass(frozen=True)
class Picture:
    """A finished picture. ``timings`` are milliseconds of this picture's share of its batch: text, denoise, decode."""

    image: Image
    seed: int
    steps: int
    width: int
    height: int
    model: str
    timings: dict[str, float]
    record: Record

    def save(self, path: str | Path) -> Path:
        """Write a picture that says how it was made, whole or not at all: a PNG, WebP or JPEG, as its name ends. Returns its path.

        Raises RequestError on a name that ends otherwise, OSError where it cannot be written.
        """
        from fewstep.engine.record import write_picture

        return write_picture(self.image, self.record, Path(path))


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


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from "256x192". Raises RequestError on anything else."""
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if not match:
        raise RequestError(f"size {text!r}: write it as WIDTHxHEIGHT in pixels, for instance 256x256")
    return int(match[1]), int(match[2])


def prompts_of(arguments: Sequence[str] | None, file: Path | None) -> list[str]:
    """The prompts of the command line and of a file, where blank lines are passed over. Raises RequestError if there is none."""
    prompts = list(arguments or ())
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--prompts {file} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})") from None
        prompts += [line for line in lines if line]
    if not prompts:
        raise RequestError(f'{file or "the command line"} holds no prompt: try fewstep generate "a red apple on a blue background"')
    return prompts


def requests_of(prompts: Sequence[str], seed: int | None, count: int, steps: int | None, size: str | None, aspect: str | None) -> list[Request]:
    """``count`` requests a prompt; each prompt gets the same seeds, ``seed`` and those that follow. Raises RequestError."""
    width, height = parse_size(size) if size is not None else (None, None)
    first = Request("", seed=seed).seed_or_random()
    return [Request(prompt, first + i, steps, width, height, aspect) for prompt in prompts for i in range(count)]


def listed(values: tuple[Any, ...] | list[Any]) -> str:
    """ "1, 2, 4 and 8"."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
