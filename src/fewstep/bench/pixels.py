"""Two sets of pictures from the same noise, pixel by pixel: a fast wrong answer must not win."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL.Image import Image

BOUND = 2  # of 255: the largest difference of a colour value that two orders of the same arithmetic may make
FLAT = 5.0  # of 255: pictures whose values spread less say little


def worst(ours: Sequence[Image], theirs: Sequence[Image]) -> int:
    """The largest difference of any colour value, in 255ths; 255 where the number or the size of the pictures differs."""
    if len(ours) != len(theirs) or any(a.size != b.size or a.mode != b.mode for a, b in zip(ours, theirs, strict=True)):
        return 255
    return max((int(np.abs(_values(a) - _values(b)).max()) for a, b in zip(ours, theirs, strict=True)), default=0)


def psnr(ours: Sequence[Image], theirs: Sequence[Image]) -> float:
    """Peak signal-to-noise ratio of ``ours`` against ``theirs`` in dB, over all of them; infinite where they are equal."""
    error = float(np.mean([np.square(_values(a) - _values(b)).mean() for a, b in zip(ours, theirs, strict=True)]))
    return 10 * math.log10(255**2 / error) if error else math.inf


def contrast(pictures: Sequence[Image]) -> float:
    """The least standard deviation of a picture's colour values, in 255ths."""
    return min(float(_values(picture).std()) for picture in pictures)


def _values(picture: Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32)
