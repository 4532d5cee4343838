"""Fréchet Inception distance: of whole pictures, and of their middle at native size. The network's weights are looked for, never fetched.

The official weights are a pickle, which is not opened. FILE in REPO is the same tensors as safetensors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fewstep.evals.inception import SIDE, Inception, load_inception
from fewstep.models.weights import WeightsError
from fewstep.zoo.hub import cached, command

REPO, FILE = "nikhilr01/sen-bridge-weights", "fid_inception.safetensors"
BATCH = 8  # pictures at once


def open_inception(path: str = "") -> Inception:
    """The network from the safetensors file ``path``, or from the Hub's cache. Raises WeightsError, saying what to do, where there is none."""
    found = Path(path) if path else cached(REPO, FILE)
    if found is None:
        raise WeightsError(f"{REPO} is not in the Hub's cache: {command(REPO, [FILE])}")
    if not found.is_file():
        raise WeightsError(f"there is no file {found}: give pytorch-fid's weights as safetensors, or {command(REPO, [FILE])}")
    return load_inception(found)


def whole(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3], scaled to 299 by 299 as clean-fid does it (arXiv 2104.11222): bicubic with its support widened, without rounding.

    float32 [N, 299, 299, 3] in 0 to 255, and a little beyond.
    """
    scaled = [[np.asarray(Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for channel in _planes(one)] for one in pictures]
    return np.array(scaled, np.float32).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _planes(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)


def middle(pictures: np.ndarray) -> np.ndarray:
    """The middle 299 by 299 pixels of uint8 [N, H, W, 3], as they are: what patch-FID looks at. Raises ValueError where there are none."""
    height, width = pictures.shape[1:3]
    if min(height, width) < SIDE:
        raise ValueError(f"pictures of {width}x{height} pixels have no middle of {SIDE}x{SIDE}")
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return pictures[:, top : top + SIDE, left : left + SIDE]


@torch.no_grad()
def features(network: Inception, pictures: np.ndarray) -> np.ndarray:
    """Pooled features, float32 [N, 2048], of [N, 299, 299, 3] in 0 to 255; the graph's own scaling is (x - 128) / 128."""
    parts = np.array_split(pictures, range(BATCH, len(pictures), BATCH))
    values = (torch.from_numpy(np.ascontiguousarray(part, np.float32)).permute(0, 3, 1, 2).sub(128).div(128) for part in parts)
    return torch.cat([network(part) for part in values]).numpy()
