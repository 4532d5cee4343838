"""Sharpness at native size, free of any model."""

from __future__ import annotations

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def gradient_energies(pictures: np.ndarray) -> np.ndarray:
    """Mean of |∇luma|² (forward differences, luma in [0, 1]) over the pixels of each of uint8 [N, H, W, 3]: float64 [N].

    An edge one pixel wide counts k times as much as the same edge spread over k pixels, so it falls under any blur. Noise raises it:
    read it beside the patch-Fréchet distance.
    """
    energies = np.empty(len(pictures))
    for position, picture in enumerate(pictures):  # one at a time: float copies of hundreds of pictures would fill the memory
        luma = picture.astype(np.float32) @ LUMA / 255
        energies[position] = float((np.diff(luma, axis=0)[:, :-1] ** 2 + np.diff(luma, axis=1)[:-1] ** 2).mean(dtype=np.float64))
    return energies
