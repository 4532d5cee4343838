"""How much of a network wraps around for a tile, a picture without a seam. Loads no torch.

Convolutions that see a picture's opposite side beyond its border make opposite sides fit together. Where a UNet's coarse levels have few
positions a side, though, its border is how it knows where the middle is: a 16x16 network that wraps around on all levels has lost its
subject (measured, docs/decisions.md). Such levels stay as they are, and so does the whole of the evaluation that lays the picture out.
"""

from __future__ import annotations

FEWEST = 16  # positions a side of a level, below the finest, that wraps around


def depth(height: int, width: int, levels: int, first: bool) -> int:
    """How many levels of a UNet, the finest first, wrap around for latents of this size; 0 is none.

    ``first``: the evaluation begins from nothing but noise, and others follow, which close the seam.
    """
    large = sum(level == 0 or min(height, width) >> level >= FEWEST for level in range(levels))
    return 0 if first and large < levels else large
