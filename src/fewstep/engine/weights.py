"""One student out of its file, on top of the bundle it belongs to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from fewstep.models.bundle import Bundle, WeightsError, load_weights, read_stamp
from fewstep.stamp import Stamp


def read_student(bundle: Bundle, path: Path) -> tuple[Any, Stamp]:
    """(UNet, stamp) of a stamped file: a whole UNet, or a LoRA merged into a copy of the bundle's.

    Raises WeightsError on a file that cannot be read, carries no stamp, does not fit, or is a LoRA for other weights.
    """
    stamp = read_stamp(path)
    if stamp is None:
        raise WeightsError(f"{path} does not say how many steps it was trained for: give a file that fewstep wrote")
    unet = copy.deepcopy(bundle.unet)
    if stamp.kind == "lora":
        if stamp.base and stamp.base != bundle.hash:
            raise WeightsError(
                f"{path} is a LoRA for the weights {stamp.base}, and these are {bundle.hash}: give the model it was made for"
            )
        from fewstep.models.lora import merge_lora

        merge_lora(unet, path, 1.0)
    else:
        load_weights(unet, path)
    return unet.eval().requires_grad_(False), stamp
