"""Aspect buckets: sizes of about the same area that a model is trained on."""

from __future__ import annotations

BUCKETS: tuple[tuple[int, int], ...] = ((256, 256), (336, 192), (192, 336), (288, 224), (224, 288))  # width, height in pixels; multiples of 16
SQUARE_SHARE = 0.7  # of training batches; the other buckets share the rest evenly


def bucket(draw: float) -> tuple[int, int]:
    """The bucket that a uniform ``draw`` from [0, 1) falls into."""
    if draw < SQUARE_SHARE:
        return BUCKETS[0]
    others = BUCKETS[1:]
    return others[min(int((draw - SQUARE_SHARE) / (1 - SQUARE_SHARE) * len(others)), len(others) - 1)]
