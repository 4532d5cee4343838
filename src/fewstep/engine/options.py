"""From the words of a command line to requests. Loads no torch."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.engine.request import Limits, Request, RequestError, listed, seeds_from

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 1 << 27  # bytes of a picture's file


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
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--prompts {file} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})") from None
        prompts += [line for line in lines if line]
    if not prompts:
        raise RequestError(f'{file or "the command line"} holds no prompt: try fewstep generate "a red apple on a blue background"')
    return prompts


def requests_of(prompts: Sequence[str], count: int, **wanted: Any) -> list[Request]:
    """``count`` requests a prompt, of what is ``wanted`` besides; each prompt gets the same seeds, the one given and those that follow."""
    first = Request("", seed=wanted.pop("seed", None)).seed_or_random()
    return [Request(prompt, seed, **wanted) for prompt in prompts for seed in seeds_from(first, count)]


def parse_outpaint(text: str | None) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) from "64,0,64,0", None from None. Raises RequestError on anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", text.replace(" ", ""))
    if not match:
        raise RequestError(f"outpaint {text!r:.60}: write it as LEFT,TOP,RIGHT,BOTTOM in pixels, for instance 64,0,64,0")
    left, top, right, bottom = map(int, match.groups())
    return left, top, right, bottom


def parse_pair(text: str | None, option: str, sign: str = "x") -> tuple[int, int] | None:
    """Two numbers of pixels, width and height, from "256x192", or with the ``sign`` "," left and top from "0,32"; None from None.

    Raises RequestError, naming the ``option``, on anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(rf"([0-9]{{1,6}}){sign}([0-9]{{1,6}})", text.strip().lower())
    if not match:
        raise RequestError(f"{option} {text!r:.60}: write it as {'WIDTHxHEIGHT' if sign == 'x' else 'LEFT,TOP'} in pixels")
    return int(match[1]), int(match[2])


def read_image(path: Path, option: str) -> Image:
    """The picture in a file that the command line or a list names. Raises RequestError on what is no whole PNG, WebP or JPEG."""
    from fewstep.engine.source import open_image

    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST else b""
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) or error.errno == errno.ENAMETOOLONG:
            raise RequestError(f"{option} {str(path)!r:.200}: no file can have this name: give the path of a PNG, WebP or JPEG") from None
        raise RequestError(f"{option} {path} cannot be read ({error.strerror}): give a PNG, WebP or JPEG") from None
    if size > LARGEST:
        raise RequestError(f"{option} {path} has {size / 1e6:.0f} MB: give a picture of at most {LARGEST / 1e6:.0f} MB")
    return open_image(content, f"picture of {option} {path}")


def notes(request: Request, limits: Limits) -> list[str]:
    """Sentences on what ``request`` gets that is not what it asked for: only the noise levels that a student was trained on can be begun from."""
    if request.strength is None:
        return []
    steps, strength = limits.default_steps if request.steps is None else request.steps, limits.settle(request).strength
    if abs(strength - request.strength) < 0.5 / 100:
        return []
    levels = [f"{count / steps:g}" for count in range(1, steps + 1)]
    there = listed(levels) if steps <= 8 else f"{levels[0]}, {levels[1]} to 1"
    said = f"strength {request.strength:g} was asked for and {strength:g} is used: {steps} steps have the strengths {there}"
    return [f"{said}; at 1 nothing is left of the image" if strength == 1 and request.mask is None and request.outpaint is None else said]
