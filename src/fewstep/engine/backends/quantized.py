"""Linear layers in eight bits, through torchao: both weights and activations, so that a card multiplies in eight bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fewstep.engine.backends import BackendError

KEPT = "fewstep_own_weight"
NEEDS = (8, 9)  # CUDA's compute capability for float8: Ada, Hopper and later


def eight_bits(precision: str, device: str) -> Any:
    """torchao's configuration for ``precision``, "int8" or "float8". Raises BackendError on a device that has no such numbers, ImportError without torchao."""
    if precision == "float8" and not (device.startswith("cuda") and torch.cuda.get_device_capability(device) >= NEEDS):
        raise BackendError(f"there is no float8 on {device}, which a card of compute capability 8.9 has: give --precision int8, or leave it at auto")
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8DynamicActivationInt8WeightConfig

    return Float8DynamicActivationFloat8WeightConfig() if precision == "float8" else Int8DynamicActivationInt8WeightConfig()


def layers(unet: Any) -> dict[str, nn.Linear]:
    """The layers that are worth it, by name: the transformers' own, which see every position of a picture. Those of time and size see one row."""
    found = {}
    for name, part in unet.named_modules():
        if isinstance(part, nn.Linear) and ".attentions." in name:
            parent, _, leaf = name.rpartition(".")
            fused = getattr(unet.get_submodule(parent), "fused_projections", False)
            if not (fused and leaf in ("to_q", "to_k", "to_v")) or (leaf == "to_q" and hasattr(unet.get_submodule(parent), "to_kv")):
                found[name] = part
    return found


def quantize(unet: Any, config: Any) -> None:
    """Have ``unet`` compute its large layers in eight bits, from the weights that it has now. These stay beside them, and are what students and
    LoRAs are put into: called again after each such change.
    """
    from torchao.quantization import quantize_

    chosen = layers(unet)
    for layer in chosen.values():
        if not hasattr(layer, KEPT):
            object.__setattr__(layer, KEPT, layer.weight)  # past nn.Module, for it is no parameter of its own
        layer.weight = getattr(layer, KEPT)
    quantize_(unet, config, filter_fn=lambda part, name: name in chosen)
