"""A whole model in miniature, with random weights: what the tests run on. Its pictures are noise, but every path is the real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fewstep.data.emoji import COLOURS
from fewstep.models.bundle import Bundle, save_bundle, save_weights
from fewstep.models.miniature import Shape, build_bundle, build_unet
from fewstep.stamp import Stamp

SUBJECTS = ("red apple", "cat face", "dog face", "pizza", "rocket", "ghost")
PLACES = ("in the snow", "at the sea")
CAPTIONS = [f"a {subject} on a {colour} background" for subject in SUBJECTS for colour in COLOURS] + [f"a small fruit {place}" for place in PLACES]
SHAPE = Shape(
    unet_channels=(32, 64, 64),
    unet_heads=(1, 2, 2),
    unet_groups=8,
    text_hidden=(32, 32),
    text_layers=(2, 2),
    vocabulary=1200,
    latent_channels=4,
    autoencoder_channels=(16, 16, 16, 16, 16),
    autoencoder_groups=4,
)
SDXL = Shape(  # SDXL's own layout: eight pixels a latent position, two layers a block, more transformer layers where it is coarser
    unet_channels=(16, 32, 32),
    unet_heads=(1, 2, 2),
    unet_transformers=(1, 1, 2),
    unet_layers=2,
    unet_groups=8,
    text_hidden=(32, 64),
    text_layers=(3, 2),
    vocabulary=1200,
    latent_channels=4,
    autoencoder_channels=(8, 8, 16, 16),
    autoencoder_groups=4,
    sample_size=32,
)
SMALLER = replace(SHAPE, unet_channels=(32, 64), unet_heads=(1, 2), unet_transformers=(1, 1))  # every kind of block once: for what takes long by the block


def words() -> dict[str, list[str]]:
    """What the tiny model would have been taught: the content of its words.json."""
    taught = sorted({word.strip(",").lower() for caption in CAPTIONS for word in caption.split()})
    return {"subjects": list(SUBJECTS), "colours": list(COLOURS), "places": list(PLACES), "words": taught}


def build(seed: int = 0, shape: Shape = SHAPE) -> Bundle:
    """The tiny bundle in memory: a teacher."""
    bundle = build_bundle(shape, CAPTIONS, seed)
    bundle.words = words()
    for network in bundle.models.values():
        network.eval().requires_grad_(False)
    return bundle


def tiny_bundle(folder: Path, students: Sequence[int] = (1, 2, 4, 8), seed: int = 0, shape: Shape = SHAPE) -> Path:
    """Write the tiny model with a stamped random student for each step count; the one-step student predicts x0. Returns ``folder``."""
    bundle = build(seed, shape)
    save_bundle(bundle, folder)
    (folder / "students").mkdir()
    for steps in students:
        torch.manual_seed(1000 * seed + steps)
        stamp = Stamp(kind="unet", steps=steps, prediction_type="sample" if steps == 1 else "epsilon", base=bundle.hash)
        tensors = {key: value.to(torch.float16).contiguous() for key, value in build_unet(shape).state_dict().items()}
        save_weights(tensors, folder / "students" / f"{steps}-step.safetensors", stamp.to_metadata())
    return folder
