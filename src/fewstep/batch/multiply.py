"""What multiplies rows on the command line: shapes, by ratio or by the name of a social network, and seeds. Loads no torch."""

from __future__ import annotations

import re
from fractions import Fraction

from fewstep.engine.request import SEEDS, Limits, RequestError

# The shapes that each network shows uncut, in 2026: feed first, then stories and reels.
NETWORKS: dict[str, tuple[str, ...]] = {
    "instagram": ("4:5", "3:4", "1:1", "9:16"),
    "facebook": ("4:5", "1:1", "1.91:1", "9:16"),
    "x": ("16:9", "1:1", "4:5"),
    "linkedin": ("1.91:1", "1:1", "4:5"),
    "pinterest": ("2:3", "1:1"),
    "tiktok": ("9:16",),
    "youtube": ("16:9", "9:16"),
}
WIDEST = 8  # times as long one side as the other
MOST_SEEDS = 100_000


def parse_aspects(text: str | None) -> tuple[str, ...]:
    """The ratios in "1:1,4:5" or in the names of NETWORKS, each once; none from None. Raises RequestError on anything else."""
    found: list[str] = []
    for part in () if text is None else text.split(","):
        name = part.strip().lower()
        ratios = NETWORKS.get(name, (name,))
        if any(_ratio(ratio) is None for ratio in ratios):
            networks = ", ".join(NETWORKS)
            raise RequestError(f"--aspects {part.strip()!r:.40}: give WIDTH:HEIGHT up to {WIDEST}:1, such as 4:5, or one of {networks}, with commas between")
        found += ratios
    return tuple(dict.fromkeys(found))


def _ratio(text: str) -> float | None:
    match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,4})?):([0-9]{1,4}(?:\.[0-9]{1,4})?)", text)
    across, down = map(float, match.groups()) if match else (0.0, 0.0)
    return across / down if down and 1 / WIDEST <= across / down <= WIDEST else None


def sizes_of(aspects: tuple[str, ...], limits: Limits) -> dict[tuple[int, int], str]:
    """The model's size for each of ``aspects``, of about its own area, with the ratios that it stands for: two close ones share a size."""
    found: dict[tuple[int, int], str] = {}
    for aspect in aspects:
        across, down = (Fraction(side) for side in aspect.split(":"))
        size = limits.nearest(*(across / down).as_integer_ratio())
        found[size] = f"{found[size]} and {aspect}" if size in found else aspect
    return found


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """The seeds in "1-8" or "1,5,9-12", each once; none from None. Raises RequestError on anything else."""
    found: dict[int, None] = {}
    for part in () if text is None else text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})(?:\s*-\s*([0-9]{1,19}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < SEEDS:
            raise RequestError(f"--seeds {text!r:.60}: write it as 1-8, or as 1,5,9-12, of whole numbers from 0 to 2^63 - 1")
        if len(found) + last - first >= MOST_SEEDS:
            raise RequestError(f"--seeds {text!r:.60}: give at most {MOST_SEEDS} of them")
        found |= dict.fromkeys(range(first, last + 1))
    return tuple(found)
