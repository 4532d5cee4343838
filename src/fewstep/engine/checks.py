"""What makes a request good for no model at all: each a sentence. Loads no torch."""

from __future__ import annotations

from numbers import Integral, Real
from pathlib import Path
from typing import Any

from fewstep.engine.request import ASPECTS, LONGEST_PROMPT, MOST_PIXELS, SEEDS, TILES, Request, RequestError

TEXTS = ("prompt", "prompt_2", "blend", "negative")
WHOLE = ("seed", "steps", "width", "height", "variation_seed")
SHARES = ("blend_weight", "variation", "strength")  # numbers from 0 to 1
SCALES = {"guidance_scale": (0, 100), "nag_scale": (1, 100)}
PAIRS = {"original_size": 1, "crop": 0, "target_size": 1}  # two whole numbers of pixels, and the least of each
FLAGS = ("transparent", "literal")
NEEDS = {
    "blend_weight": "blend",
    "variation_seed": "variation",
    "strength": "image",
    "mask": "image",
    "outpaint": "image",
    "nag_scale": "negative",
}  # what says nothing without another field
MOST_WEIGHT, MOST_LORAS = 20, 16
MOST_VARIATIONS = 32  # after the first
MOST_TOLD = 1 << 16  # pixels a side that a model may be told


def plain(request: Request) -> dict[str, int | float]:
    """The numbers of ``request`` that are of other types than Python's own, numpy's for one, as Python's."""
    given: dict[str, Any] = {name: getattr(request, name) for name in (*WHOLE, *SHARES, *SCALES)}
    others = {name: value for name, value in given.items() if not isinstance(value, int | float)}
    return {name: int(value) if isinstance(value, Integral) else float(value) for name, value in others.items() if isinstance(value, Real)}


def check(request: Request) -> None:
    """Raises RequestError on a field that is not what it has to be, or that does not go with another."""
    for name in TEXTS:
        _check_text(name, getattr(request, name))
    for name in WHOLE:
        if (value := getattr(request, name)) is not None:
            _check_whole(name, value)
    for name, (least, most) in {**dict.fromkeys(SHARES, (0, 1)), **SCALES}.items():
        if (value := getattr(request, name)) is not None:
            _check_number(name, value, least, most)
    check_variations(request.variations)
    for name, least in PAIRS.items():
        _check_pair(name, getattr(request, name), least)
    if request.aspect is not None and request.aspect not in ASPECTS:
        raise RequestError(f"aspect = {request.aspect!r}: give one of {', '.join(ASPECTS)}")
    if request.aspect is not None and (request.width, request.height) != (None, None):
        raise RequestError("a size and an aspect were both given: give one of them")
    if request.tile is not None and request.tile not in TILES:
        raise RequestError(f"tile = {request.tile!r:.40}: give one of {', '.join(TILES)}")
    for name in FLAGS:
        if not isinstance(getattr(request, name), bool):
            raise RequestError(f"{name} = {getattr(request, name)!r}: give true or false")
    for name, needs in NEEDS.items():
        if getattr(request, name) is not None and getattr(request, needs) is None:
            raise RequestError(f"{name} was given without {needs}: give both, or neither")
    if request.loras is not None:
        check_loras(request.loras)
    if request.control:
        from fewstep.engine.control import check_controls

        check_controls(request.control)
    if request.image is not None:
        _check_image(request, request.image)


def check_variations(variations: Any) -> None:
    """Raises RequestError unless these are (seed, share) of a few variations."""
    if not isinstance(variations, tuple | list) or not all(isinstance(one, tuple | list) and len(one) == 2 for one in variations):
        raise RequestError(f"variations = {variations!r:.60}: give pairs of a seed and a share, for instance [(9, 0.3)]")
    if len(variations) > MOST_VARIATIONS:
        raise RequestError(f"{len(variations)} variations were given: give at most {MOST_VARIATIONS} besides the first")
    for number, (seed, share) in enumerate(variations):
        _check_whole(f"the seed of variations[{number}]", seed)
        _check_number(f"the share of variations[{number}]", share, 0, 1)


def check_loras(loras: Any) -> None:
    """Raises RequestError unless these are (file, weight) of a few LoRAs."""
    pairs = isinstance(loras, tuple | list) and all(isinstance(one, tuple | list) and len(one) == 2 for one in loras)
    if not pairs or not all(isinstance(path, str | Path) and str(path) for path, _ in loras):
        raise RequestError(f'loras = {loras!r:.60}: give pairs of a file and a weight, for instance [("style.safetensors", 0.8)]')
    for path, weight in loras:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not -MOST_WEIGHT <= weight <= MOST_WEIGHT:
            raise RequestError(f"the weight of {path} is {weight!r:.40}: give a number from -{MOST_WEIGHT} to {MOST_WEIGHT}")
    if len(loras) > MOST_LORAS:
        raise RequestError(f"{len(loras)} LoRAs were given: give at most {MOST_LORAS}")


def _check_whole(name: str, value: Any) -> None:
    if type(value) is not int:
        raise RequestError(f"{name} = {value!r:.60}: give a whole number")
    if "seed" in name and not 0 <= value < SEEDS:
        raise RequestError(f"{name} = {value}: give a whole number from 0 to 2^63 - 1")


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RequestError(f"{name} = {value!r:.60}: give a number from {least} to {most}")


def _check_text(name: str, text: Any) -> None:
    if text is None and name != "prompt":
        return
    if not isinstance(text, str):
        raise RequestError(f"the {name} is {text!r}: give a text")
    if len(text) > LONGEST_PROMPT:
        raise RequestError(f"the {name} has {len(text)} characters: give at most {LONGEST_PROMPT}")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError(f"the {name} is not valid Unicode: give it in UTF-8")


def _check_pair(name: str, pair: Any, least: int) -> None:
    good = isinstance(pair, tuple) and len(pair) == 2 and all(type(side) is int and least <= side <= MOST_TOLD for side in pair)
    if pair is not None and not good:
        what = "left and top" if name == "crop" else "width and height"
        raise RequestError(f"{name} = {pair!r:.60}: give two whole numbers of pixels from {least} to {MOST_TOLD}, {what}")


def _check_image(request: Request, image: Any) -> None:
    from PIL.Image import Image

    for name, given in (("image", image), ("mask", request.mask)):
        if given is None and name == "mask":
            continue
        if not isinstance(given, Image):
            raise RequestError(f"{name} = {given!r:.60}: give a PIL image")
        if not 0 < given.width * given.height <= MOST_PIXELS:
            raise RequestError(f"the {name} has {given.width}x{given.height} pixels: give one of at most {MOST_PIXELS / 1e6:.1f} megapixels")
    if request.mask is not None and request.mask.size != image.size:
        sizes = [f"{one.width}x{one.height}" for one in (request.mask, image)]
        raise RequestError(f"the mask has {sizes[0]} pixels and the image {sizes[1]}: give a mask of the image's size")
    margins = request.outpaint
    four = isinstance(margins, tuple | list) and len(margins) == 4 and all(type(side) is int and side >= 0 for side in margins)
    if margins is not None and not (four and any(margins)):
        raise RequestError(f"outpaint = {margins!r:.60}: give four whole numbers of pixels: left, top, right, bottom")
