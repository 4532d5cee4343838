"""A student in one safetensors file: its UNet alone in diffusers' names, or the whole model in SDXL's original layout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fewstep.engine.model import Model
from fewstep.export.diffusers import opened
from fewstep.export.modelspec import modelspec
from fewstep.models.bundle import Bundle, released_names, save_weights
from fewstep.models.single_file import to_original
from fewstep.stamp import Stamp


def write_unet(model: Model, steps: int, target: Path) -> Stamp:
    """Write the UNet of the student for ``steps``, float16, as SDXL-Lightning's ``*_unet`` files are. Returns its stamp.

    Raises WeightsError on weights that cannot be used, OSError where it cannot be written.
    """
    bundle = opened(model, steps, torch.float16)
    state = bundle.unet.state_dict()
    return _save(model, bundle, {name: state[key].to(torch.float16).contiguous() for name, key in released_names(bundle.unet).items()}, target)


def write_single_file(model: Model, steps: int, target: Path) -> Stamp:
    """Write UNet, autoencoder and both text encoders, float16, as ComfyUI and A1111 load an SDXL checkpoint. Returns its stamp; raises as above.

    Tokenizers and the sampler's settings are no part of such a file; its stamp says the latter.
    """
    bundle = opened(model, steps, torch.float16)
    return _save(model, bundle, to_original(bundle.models), target)


def _save(model: Model, bundle: Bundle, tensors: dict[str, Tensor], target: Path) -> Stamp:
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, target, {**bundle.stamp.to_metadata(), **modelspec(model.folder, bundle.stamp, name=model.limits.name)})
    return bundle.stamp
