"""Hint pictures: what a ControlNet is given to read, made of an image as its kind says. Loads no torch; edges and line art need scikit-image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewstep.engine.request import RequestError
from fewstep.engine.source import to_gray, to_rgb

Bytes = NDArray[np.uint8]
SIGMA, LOW, HIGH = 1.0, 0.1, 0.2  # of Canny's: pixels, and thresholds of the gradient for values from 0 to 1; OpenCV's 100 and 200 are about these
WIDE, FAINTEST = 6.0, 16.0  # of line art: the blur in pixels, and the typical line, of 255, that is brought up to half of white
BY_SCIKIT_IMAGE = ("canny", "lineart")  # hints that need it
INK = 48  # of 255: how much a line that was drawn differs from its paper


def make_hint(image: Image.Image, kind: str, width: int, height: int) -> Bytes:
    """The hint, uint8 [H, W, 3], of ``image``, scaled to cover the frame and cut at the middle. White lines on black, or near in white for "depth".

    "given" is the image itself. Raises RequestError on pixels that cannot be read, or where "canny" and "lineart" lack scikit-image.
    """
    try:
        brought = BROUGHT.get(kind, to_rgb)(image)
        fitted = ImageOps.fit(brought, (width, height), Image.Resampling.LANCZOS) if image.size != (width, height) else brought
        return np.array(DRAWN[kind](fitted).convert("RGB"), np.uint8)
    except RequestError:
        raise
    except (OSError, ValueError, SyntaxError):
        raise RequestError("the control image is damaged: give a whole one") from None


def edges(pixels: Bytes) -> NDArray[np.bool_]:
    """Canny's edges, bool [H, W], of a picture, uint8 [H, W, 3]: those of any channel, for yellow on pink has none in grey.

    Raises RequestError without scikit-image.
    """
    with _scikit_image():
        from skimage.feature import canny
    found: NDArray[np.bool_] = np.any([canny(channel, SIGMA, LOW, HIGH) for channel in np.moveaxis(np.asarray(pixels, np.float32) / 255, 2, 0)], axis=0)
    return found


@contextmanager
def _scikit_image() -> Iterator[None]:
    """What imports it within says in a sentence where it is missing."""
    try:
        yield
    except ModuleNotFoundError:
        missing = "edges and line art are made by scikit-image, which the plain install does not bring"
        raise RequestError(f"{missing}: python -m pip install 'fewstep[controlnet]'") from None


def _edges(image: Image.Image) -> Image.Image:
    return Image.fromarray(edges(np.asarray(image)).astype(np.uint8) * 255)


def _lines(rgb: Image.Image) -> Image.Image:
    """Where a picture is darker than what is around it, as controlnet-aux's standard line art has it."""
    with _scikit_image():
        from skimage.filters import gaussian
    pixels = np.asarray(rgb, np.float32)
    darker = (gaussian(pixels, WIDE, channel_axis=2) - pixels).min(axis=2).clip(0, 255)
    seen = darker[darker > FAINTEST / 2]
    typical = max(FAINTEST, float(np.median(seen))) if seen.size else FAINTEST
    return Image.fromarray((darker / typical * 127).clip(0, 255).astype(np.uint8))


def _canvas(image: Image.Image) -> Image.Image:
    return image.convert("RGBA") if image.has_transparency_data else to_rgb(image)


def _strokes(canvas: Image.Image) -> Image.Image:
    """What was drawn on a canvas: where it is not transparent, or else not the colour of the paper, the commonest grey."""
    if canvas.mode == "RGBA" and np.asarray(alpha := canvas.getchannel("A")).min() < 128:
        return Image.fromarray((np.asarray(alpha) >= 128).astype(np.uint8) * 255)
    gray = np.asarray(to_gray(canvas), np.int16)
    paper = int(np.bincount(gray.ravel(), minlength=256).argmax())
    return Image.fromarray((np.abs(gray - paper) >= INK).astype(np.uint8) * 255)


def _depth(image: Image.Image) -> Image.Image:
    """A depth map in grey; one of more than 8 bits is stretched from its farthest to its nearest."""
    if not image.mode.startswith(("I", "F")):
        return to_gray(image)
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise RequestError("the depth map holds values that are not finite: give a whole one")
    far, near = float(values.min()), float(values.max())
    return Image.fromarray(((values - far) / max(near - far, 1e-12) * 255).round().astype(np.uint8))


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


BROUGHT: dict[str, Callable[[Image.Image], Image.Image]] = {"depth": _depth, "scribble": _canvas}  # before it is scaled; others without transparency
DRAWN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "given": _as_it_is,
    "canny": _edges,
    "lineart": _lines,
    "scribble": _strokes,
    "depth": _as_it_is,
}
