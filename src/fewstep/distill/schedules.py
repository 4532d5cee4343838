"""Learning-rate schedules, as factors on an optimizer's own rate."""

from __future__ import annotations

import math


def cosine(update: int, updates: int, warmup: int) -> float:
    """Linear warm-up from 1/warmup to 1, then a half cosine down to 0.02."""
    if update < warmup:
        return (update + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(updates - warmup, 1)))


def constant(update: int, warmup: int) -> float:
    """Linear warm-up from 1/warmup, then 1."""
    return min((update + 1) / max(warmup, 1), 1.0)
