"""Aspect buckets: sizes of about the same area that a model is trained on."""

from __future__ import annotations

from math import log

BUCKETS: tuple[tuple[int, int], ...] = ((256, 256), (336, 192), (192, 336), (288, 224), (224, 288))  # width, height in pixels; multiples of 16
SQUARE_SHARE = 0.5  # of training batches; the other buckets share the rest evenly


def buckets(side: int) -> tuple[tuple[int, int], ...]:
    """The buckets of a model whose square pictures are ``side`` pixels a side, square first: BUCKETS for 256."""
    return tuple((width * side // BUCKETS[0][0], height * side // BUCKETS[0][0]) for width, height in BUCKETS)


def bucket(draw: float, side: int = BUCKETS[0][0]) -> tuple[int, int]:
    """The bucket of ``buckets(side)`` that a uniform ``draw`` from [0, 1) falls into."""
    square, *others = buckets(side)
    if draw < SQUARE_SHARE:
        return square
    return others[min(int((draw - SQUARE_SHARE) / (1 - SQUARE_SHARE) * len(others)), len(others) - 1)]


def nearest(width: int, height: int, side: int = BUCKETS[0][0]) -> tuple[int, int]:
    """The bucket of ``buckets(side)`` whose shape is nearest to that of a picture of ``width`` by ``height``: the least of it is cut off."""
    return min(buckets(side), key=lambda size: abs(log(width / height) - log(size[0] / size[1])))
