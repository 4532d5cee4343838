"""Students beside a bundle: whole UNets or LoRAs, found by the step count in their stamps."""

from __future__ import annotations

import copy
from pathlib import Path

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from fewstep.models.bundle import Bundle, load_weights, read_stamp
from fewstep.models.lora import merge_lora
from fewstep.models.weights import WeightsError
from fewstep.stamp import Stamp, StepMismatch


def read_student(bundle: Bundle, path: Path) -> tuple[UNet2DConditionModel, Stamp]:
    """(UNet, stamp) of a stamped file: a whole UNet, or a LoRA merged into a copy of the bundle's.

    Raises WeightsError on a file that cannot be read, carries no stamp, does not fit, or is a LoRA for other weights.
    """
    stamp = read_stamp(path)
    if stamp is None:
        raise WeightsError(f"{path} does not say how many steps it was trained for: give a file that fewstep wrote")
    if stamp.kind == "lora" and stamp.base and stamp.base != bundle.hash:
        raise WeightsError(f"{path} is a LoRA for the weights {stamp.base}, and these are {bundle.hash}: give the model it was made for")
    unet = copy.deepcopy(bundle.unet).requires_grad_(False)
    if stamp.kind == "lora":
        merge_lora(unet, path)
        for parameter in unet.parameters():  # as an exported file holds them, so that both make the same picture
            parameter.copy_(parameter.half())
    else:
        load_weights(unet, path)
    return unet.eval(), stamp


def student(bundle: Bundle, steps: int) -> tuple[UNet2DConditionModel, Stamp]:
    """The student of a bundle's folder for ``steps`` steps. Raises StepMismatch if there is none, WeightsError if it cannot be used."""
    paths = sorted((bundle.folder / "students").glob("*.safetensors")) if bundle.folder else []
    stamps = {stamp.steps: path for path in reversed(paths) if (stamp := read_stamp(path)) is not None}  # of two, the first by name
    if steps not in stamps:
        there = ", ".join(map(str, sorted(stamps))) or "none"
        raise StepMismatch(f"{bundle.folder} has no student for {steps} steps; it has {there}")
    return read_student(bundle, stamps[steps])
