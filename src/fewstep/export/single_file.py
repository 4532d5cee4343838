"""A student in one safetensors file: its UNet alone in diffusers' names, or the whole model in SDXL's original layout."""

from __future__ import annotations

from pathlib import Path

import torch

from fewstep.export import check_free
from fewstep.export.diffusers import opened
from fewstep.export.modelspec import modelspec
from fewstep.models.bundle import released_names, save_weights
from fewstep.models.single_file import to_original

SUFFIX = ".safetensors"


def write_unet(folder: Path, steps: int, out: Path) -> Path:
    """Write the UNet of the student for ``steps``, float16, as SDXL-Lightning's ``*_unet`` files are. Returns the file.

    ``out`` is a .safetensors file, or a folder to put one in. Raises RequestError if there is such a file already, RequestError or
    StepMismatch on a step count that is not there, WeightsError on weights that cannot be used, OSError where it cannot be written.
    """
    return _write(folder, steps, out, "unet")


def write_single_file(folder: Path, steps: int, out: Path) -> Path:
    """Write UNet, autoencoder and both text encoders, float16, as ComfyUI and A1111 load an SDXL checkpoint. Returns the file; raises as above.

    Tokenizers and the sampler's settings are no part of such a file; its stamp says the latter.
    """
    return _write(folder, steps, out, "all-in-one")


def _write(folder: Path, steps: int, out: Path, what: str) -> Path:
    target = out if out.suffix == SUFFIX else out / f"{folder.name}-{steps}-step{'-unet' * (what == 'unet')}{SUFFIX}"
    check_free(target)
    bundle, stamp = opened(folder, steps)
    if what == "unet":
        state = bundle.unet.state_dict()
        tensors = {name: state[key].to(torch.float16).contiguous() for name, key in released_names(bundle.unet).items()}
    else:
        tensors = to_original(bundle.models)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, target, {**stamp.to_metadata(), **modelspec(folder, stamp)})
    return target
